"""Running a schedule: which outputs to keep for how long, and the executor that skips the rest."""
