#!/usr/bin/env python
"""Measures versions anew on the cluster that the job was submitted to, and moves their aliases if they pass."""

from l2c_ray.cli.jobs import run_job

if __name__ == "__main__":
    run_job(["registry", "promote", "--config"], __doc__, "promote-digits.toml")
