"""The training loop of a router on one worker, whatever the objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from l2c_ray.config.learn import LearnConfig
from l2c_ray.errors import CheckpointError
from l2c_ray.learning.progress import Progress
from l2c_ray.learning.state import is_of_module, pack, unpack
from l2c_ray.learning.updates import Average, Update
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table


class Learner(ABC):
    """Gradient descent on a router alone; the model's weights are frozen.

    Iteration i's draws depend on (seed, i, rank) alone, so that a resumed run equals an uninterrupted one. Workers
    differ in their rank, and therefore in their data and noise, and average their updates.
    """

    router: nn.Module
    _optimizer: torch.optim.Optimizer | None = None
    """None where the router has an update rule of its own."""

    def __init__(self, config: LearnConfig, model: CacheableTransformer, solver: Solver, rank: int) -> None:
        self._config = config
        self._model = model
        self._solver = solver
        self._rank = rank
        self._device = next(model.parameters()).device
        self.iteration = 0

    @property
    def done(self) -> bool:
        return self.iteration >= self._config.training.iterations

    def step(self, average: Average) -> Progress:
        """One iteration. A loss that is not finite is reported, but changes nothing."""
        update = self.update(average)
        if update.is_finite:
            self.iteration += 1
        return Progress(self.iteration, update.error.item(), update.loss.item(), self._mean_score())

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, the same on every worker."""
        return pack(self.router, self._optimizer) | {"iteration": torch.tensor(self.iteration)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from a result of `state`.

        Raises:
            CheckpointError: the tensors are those of another learner, or of an older version.
        """
        if not is_of_module(tensors, self.router):
            problem = "has other tensors than this version of l2c_ray keeps"
            raise CheckpointError("the run's checkpoint", problem, "begin anew under another name")
        unpack(tensors, self.router, self._optimizer)
        self.iteration = int(tensors["iteration"])

    def derived_tables(
        self, thresholds: Sequence[Sequence[float]], budgets: Sequence[float], share_of: Callable[[Table], float]
    ) -> list[tuple[dict[str, str | float], Table]]:
        """Static graphs by other thresholds, each with its `theta` for provenance; none where nothing is thresholded.

        Args:
            thresholds: one sequence per graph, with a threshold for each of its equally long phases.
            budgets: compute shares in (0, 1], each met by the threshold that computes the most within it, if one does.
            share_of: the compute share of a graph.
        """
        return []

    @abstractmethod
    def update(self, average: Average) -> Update:
        """Updates the router as `UpdateRule.update` does; `step` counts it as an iteration."""

    @abstractmethod
    def start_from(self, tensors: Mapping[str, Tensor]) -> bool:
        """Warm start from the final state of another learner of this kind and model; False if that is of no use."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The static graphs learned so far, in the order in which they were."""

    @abstractmethod
    def score_table(self) -> Tensor:
        """Current scores of all steps [steps, units] in [0, 1]; 1 where a step always computes."""

    @abstractmethod
    def _mean_score(self) -> float:
        """As in `Progress`."""
