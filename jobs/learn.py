#!/usr/bin/env python
"""Learns a schedule on the cluster that the job was submitted to: `ray job submit --working-dir . -- jobs/learn.py`."""

from l2c_ray.cli.jobs import run_job

if __name__ == "__main__":
    run_job(["learn"], __doc__, "digits.toml")
