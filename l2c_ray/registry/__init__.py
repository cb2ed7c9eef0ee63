"""MLflow: runs, and schedules as versions of registered models."""
