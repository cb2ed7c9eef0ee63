#!/usr/bin/env python
"""Encodes images to latents on the cluster that the job was submitted to, going on with the shards that are there."""

from l2c_ray.cli.jobs import run_job

if __name__ == "__main__":
    run_job(["encode"], __doc__, "encode-imagenet-256.toml")
