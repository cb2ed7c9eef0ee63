"""Home folder and name of the user, which libraries ask for, also in a container whose user has no account."""

import getpass
import os
from pathlib import Path


def complete_account() -> None:
    """Sets `HOME` and `USER` for this process and its children if the machine knows neither.

    MLflow needs a home folder to be imported and a user's name to make a run. `$L2C_HOME` stands in for the former;
    without it there is none, and `files.home` says so.
    """
    try:
        Path.home()
    except RuntimeError:
        if given := os.environ.get("L2C_HOME"):
            os.environ["HOME"] = given
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
