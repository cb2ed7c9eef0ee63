"""MLflow: runs, and schedules as versions of registered models."""

from l2c_ray.storage.account import complete_account
from l2c_ray.storage.files import home

# MLflow cannot be imported without a home folder; this raises the error that says so first.
complete_account()
home()
