"""MLflow: runs, and schedules as versions of registered models."""

from l2c_ray.storage.account import complete_account
from l2c_ray.storage.files import home

# MLflow cannot be imported by a user without a home folder, so that is told before any module here does.
complete_account()
home()
