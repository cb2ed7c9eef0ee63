#!/usr/bin/env python
"""Encodes images to latents on the cluster that the job was submitted to, going on with the shards that are there."""

import argparse

from l2c_ray.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="TOML file, see jobs/configs/encode-imagenet-256.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    given = parser.parse_args()
    main(["encode", given.config, *(part for override in given.set for part in ("--set", override))])
