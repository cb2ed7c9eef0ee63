#!/usr/bin/env python
"""Generates images in shards on the cluster that the job was submitted to, going on with the shards that are there."""

import argparse

from l2c_ray.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="TOML file, see jobs/configs/imagenet-dit-xl-2-256.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    given = parser.parse_args()
    main(["imagenet", "generate", given.config, *(part for override in given.set for part in ("--set", override))])
