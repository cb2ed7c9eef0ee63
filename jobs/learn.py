#!/usr/bin/env python
"""Learns a schedule on the cluster that the job was submitted to: `ray job submit --working-dir . -- jobs/learn.py`."""

import argparse

from l2c_ray.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="TOML file, see jobs/configs/digits.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    given = parser.parse_args()
    main(["learn", given.config, *(part for override in given.set for part in ("--set", override))])
