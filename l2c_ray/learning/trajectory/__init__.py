"""The trajectory objective: guided rollouts from noise that are to end where the baseline ends.

`learner` runs the stages of a `budget_curriculum`. A stage first tightens the mask of a `budget_router`
(`mask_tightening`), then fits the forecast coefficients of that mask (`coefficient_fitting`). Both update rules learn
from a `batch` of `rollout`s, which record their choices in a `gated_trajectory`.
"""
