"""Processes that begin to move an alias, to hold its lock, or to claim a tag when they are told to.

python tests/alias_mover.py move NAME ALIAS TO EXPECTED: waits for a line, then tells what came of it.
python tests/alias_mover.py hold NAME: waits for a line, then says `held` and keeps the lock until it is killed.
python tests/alias_mover.py claim NAME TOKEN: waits for a line, then compares a tag; waits for another line, then sets
the tag and reads it again.
"""

import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient

from l2c_ray.errors import L2CError
from l2c_ray.registry import tracking
from l2c_ray.registry.aliases import move_alias
from l2c_ray.registry.mutex import exclusive

READY = "ready"
TAG = "l2c.claim"


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(*processes: subprocess.Popen[str]) -> list[str]:
    """Tells them to go when all of them are ready; what each says then."""
    for process in processes:
        assert _line_of(process) == READY
    for process in processes:
        _tell(process)
    return [_line_of(process) for process in processes]


def go_on(process: subprocess.Popen[str]) -> str:
    """Tells a process that waits for its second line to go on; what it says then."""
    _tell(process)
    return _line_of(process)


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def main(what: str, name: str, *given: str) -> None:
    client = tracking.connect()
    print(READY, flush=True)
    sys.stdin.readline()
    if what == "hold":
        with exclusive(client, name):
            print("held", flush=True)
            time.sleep(600)
    if what == "claim":
        _claim(client, name, *given)
        return
    alias, to, expected = given
    try:
        move_alias(client, name, alias, int(to), expected=int(expected), why="a race")
    except L2CError as error:
        print(type(error).__name__, flush=True)
    else:
        print("moved", flush=True)


def _claim(client: MlflowClient, name: str, token: str) -> None:
    print("free" if TAG not in client.get_registered_model(name).tags else "taken", flush=True)
    sys.stdin.readline()
    client.set_registered_model_tag(name, TAG, token)
    print("won" if client.get_registered_model(name).tags[TAG] == token else "lost", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
