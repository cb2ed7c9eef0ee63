"""The common part of jobs/*.py: each job is the command of the same name."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.main import main
from l2c_ray.errors import InvalidInputError


class JobParser(argparse.ArgumentParser):
    """A parser that raises a typed error on wrong usage."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(self.prog, message, f"see {self.prog} --help")


def run_job(command: Sequence[str], description: str | None, example: str) -> None:
    """Runs `l2c` with `--config FILE` and any number of `--set KEY=VALUE` from the command line, and exits.

    Args:
        command: words of the `l2c` command, up to where its config file goes.
        example: a config that ships, by its file name.
    """
    parser = JobParser(description=description)
    parser.add_argument("--config", required=True, help=f"TOML file, see jobs/configs/{example}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    with errors_as_exit_codes():
        given = parser.parse_args()
    main([*command, given.config, *(part for override in given.set for part in ("--set", override))])
