"""Home folder and name of the user, which libraries ask for, also in a container whose user has no account."""

import getpass
import os
from pathlib import Path


def complete_account() -> None:
    """Gives this process and its children a home folder and a user's name, where the machine knows neither.

    MLflow cannot be imported without the one, and cannot make a run without the other. `$L2C_HOME` stands for the home
    folder; where that is not given either there is none, as `files.home` tells.
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
