#!/usr/bin/env python
"""Trains the embedded digit classifier on 80% of the digits and writes it with its accuracy on the rest."""

from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.jobs import JobParser
from l2c_ray.errors import InvalidInputError
from l2c_ray.storage.places import is_a_job

if __name__ == "__main__":
    with errors_as_exit_codes():
        JobParser(description=__doc__).parse_args()
        if is_a_job():
            problem = "writes into the package, of which a submitted job has a copy that is lost with its folder"
            raise InvalidInputError("jobs/train_classifier.py", problem, "run it where the checkout is")

        from l2c_ray.evaluation.classifier import WEIGHTS
        from l2c_ray.evaluation.classifier_training import train_and_write

        print(train_and_write(WEIGHTS.parent))
