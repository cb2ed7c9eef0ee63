#!/usr/bin/env python
"""Trains the embedded digit classifier on 80% of the digits and writes it with its accuracy on the rest."""

from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.jobs import JobParser
from l2c_ray.storage.places import require_lasting

if __name__ == "__main__":
    with errors_as_exit_codes():
        JobParser(description=__doc__).parse_args()

        from l2c_ray.evaluation.classifier import WEIGHTS
        from l2c_ray.evaluation.classifier_training import train_and_write

        # A submitted job would train the copy of the package that was submitted with it.
        require_lasting("jobs/train_classifier.py", WEIGHTS.parent.name)
        print(train_and_write(WEIGHTS.parent))
