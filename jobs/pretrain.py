#!/usr/bin/env python
"""Trains the embedded digits model, resuming from the last checkpoint, and writes it with its model card."""

from pathlib import Path

from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.jobs import JobParser
from l2c_ray.cli.pretraining import pretrain_and_report

if __name__ == "__main__":
    parser = JobParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see jobs/configs/pretrain-digits.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model, new or of this job")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    with errors_as_exit_codes():
        given = parser.parse_args()
        pretrain_and_report(given.config, given.set, given.out)
