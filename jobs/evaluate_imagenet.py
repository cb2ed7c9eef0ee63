#!/usr/bin/env python
"""Judges generated images on the cluster that the job was submitted to: FID, sFID, Inception score and the rest."""

import sys

from l2c_ray.cli.main import main

if __name__ == "__main__":
    main(["imagenet", "evaluate", *sys.argv[1:]])
