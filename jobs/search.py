#!/usr/bin/env python
"""Searches for schedules on the cluster that the job was submitted to.

`ray job submit --working-dir . -- jobs/search.py --config jobs/configs/digits-search.toml`
"""

from l2c_ray.cli.jobs import run_job

if __name__ == "__main__":
    run_job(["search"], __doc__, "digits-search.toml")
