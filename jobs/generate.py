#!/usr/bin/env python
"""Generates images in shards on the cluster that the job was submitted to, going on with the shards that are there."""

from l2c_ray.cli.jobs import run_job

if __name__ == "__main__":
    run_job(["imagenet", "generate"], __doc__, "imagenet-dit-xl-2-256.toml")
