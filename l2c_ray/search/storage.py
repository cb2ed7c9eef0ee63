"""Storage of studies, which outlive every driver: a journal file, sqlite, or PostgreSQL for many drivers."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import URL, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError

from l2c_ray.errors import ConfigError, L2CError, SearchError, StorageError, UnreachableError
from l2c_ray.registry.tracking import reason
from l2c_ray.search.journal import Journal, damaged
from l2c_ray.storage.files import from_root, home, make_writable
from l2c_ray.storage.retry import RETRY_SECONDS, retry

STORAGE_VARIABLE = "L2C_STUDY_STORAGE"
"""Address of a database; it may hold a password, which no message repeats."""

_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""SQLAlchemy drivers by the kinds of addresses that are accepted."""

Lock = Callable[[], AbstractContextManager[None]]
"""Admits one driver of a study at a time, and is released when its process or its connection dies."""

T = TypeVar("T")

LOCK_SECONDS = 60.0
"""Timeout of a lock."""
_OPENING_SECONDS = 3.0
"""Retry deadline at the beginning of a study, where a wrong address is more likely than an outage."""
# A database in SQL_ASCII, as initdb makes it without a locale, would hand out bytes in place of text.
_CONNECTION = {"connect_timeout": 5, "client_encoding": "utf8"}
_POLL_SECONDS = 0.002


class StudyStorage:
    """The storage that `$L2C_STUDY_STORAGE` names, or else a journal file under the home folder, and locks in it."""

    def __init__(self, study_name: str) -> None:
        """Opens the storage, and makes missing folders, files and tables.

        Raises:
            ConfigError: the address is no database's, or that of another kind of database.
            StorageError: the folder of a file cannot be written, a journal is damaged, or the database cannot keep
                studies.
            UnreachableError: the database does not answer.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._name = study_name
        self._url = _address()
        self._folder = make_writable(_folder_of(self._url))
        self._engine = self._lock_engine(self._url) if self._url else None
        self.optuna: BaseStorage = with_retries(self._open, _OPENING_SECONDS)

    def lock(self, purpose: str = "trials", timeout: float = LOCK_SECONDS) -> Lock:
        """The study's lock for a purpose.

        If others hold it longer than the timeout in seconds it raises an UnreachableError, or an error of the
        database's that `with_retries` converts.
        """
        name = f"{self._name}.{purpose}"
        if self._engine is not None:
            engine = self._engine
            return lambda: _held_in_database(engine, name, timeout)
        path = self._folder / f"{name}.lock"
        return lambda: _held_on_file(path, timeout)

    def _open(self) -> BaseStorage:
        return self._open_journal() if self._url is None else self._open_database(self._url)

    def _open_journal(self) -> BaseStorage:
        path = self._folder / f"{self._name}.journal"
        try:
            return JournalStorage(Journal(path))
        except L2CError:
            raise
        except Exception as error:
            # Optuna may raise any error on lines that are JSON, but of no study.
            raise damaged(path, error) from error

    def _open_database(self, url: URL) -> BaseStorage:
        # Two drivers that make the tables at the same time would fail.
        with self.lock("tables")():
            address = url.render_as_string(hide_password=False)
            options: dict[str, Any] = {"pool_pre_ping": True}
            if self._engine is not None:
                options["connect_args"] = _CONNECTION
            try:
                _require_studies_or_nothing(create_engine(address, **options))
                return RDBStorage(address, engine_kwargs=options)
            except (OperationalError, InterfaceError, StorageInternalError, L2CError):
                raise
            except Exception as error:
                # SQLAlchemy, Alembic and Optuna raise errors of their own.
                raise _no_place_for_studies(reason(error)) from error

    @staticmethod
    def _lock_engine(url: URL) -> Engine | None:
        if url.get_backend_name() == "sqlite":
            return None
        return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, connect_args=_CONNECTION)


def _require_studies_or_nothing(engine: Engine) -> None:
    """Raises StorageError if the database has another program's tables.

    Optuna would add its own, and read that program's schema version as its own.
    """
    tables = inspect(engine).get_table_names()
    engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        raise _no_place_for_studies("it holds the tables of another program")


def _no_place_for_studies(problem: str) -> StorageError:
    return StorageError(STORAGE_VARIABLE, f"studies cannot be kept there ({problem})", "name another database")


def with_retries(operation: Callable[[], T], seconds: float = RETRY_SECONDS) -> T:
    """The operation's result; the operation is repeated while the database is away, and has to allow that.

    Args:
        seconds: retry deadline, counted from the first failure.

    Raises:
        UnreachableError: the database was away until the deadline.
        SearchError: the study was deleted or changed by another program.
    """
    try:
        return retry(operation, seconds, (SQLAlchemyError, StorageInternalError))
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        raise UnreachableError(
            STORAGE_VARIABLE,
            f"the database of the study does not answer as it should ({reason(cause)})",
            "start or mend it and run the same again, which goes on with the study",
        ) from error
    except (OptunaError, KeyError) as error:
        problem = f"cannot be gone on with, as if another program had deleted or changed it ({reason(error)})"
        raise SearchError("the study", problem, "choose another study.name") from error


def _address() -> URL | None:
    given = os.environ.get(STORAGE_VARIABLE)
    if not given:
        return None
    remedy = (
        "give sqlite:///FILE or postgresql+psycopg://HOST:PORT/DATABASE, with USER:PASSWORD@ before HOST, or unset it"
    )
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(STORAGE_VARIABLE, "is no address of a database", remedy) from error
    if url.drivername not in _DRIVERS:
        # The rest of the address may have a password in any place.
        raise ConfigError(STORAGE_VARIABLE, f"studies cannot be kept by {url.drivername}", remedy)
    if not url.database or url.database == ":memory:":
        raise ConfigError(STORAGE_VARIABLE, "names no database that lasts", remedy)
    return url.set(drivername=_DRIVERS[url.drivername])


def _folder_of(url: URL | None) -> Path:
    """Folder of the file and of its locks."""
    if url is not None and url.get_backend_name() == "sqlite":
        return from_root(Path(str(url.database))).parent
    return home() / "studies"


@contextmanager
def _held_on_file(path: Path, timeout: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    problem = f"another driver has held it for {timeout:g} s"
                    raise UnreachableError(str(path), problem, "end that driver if it hangs") from error
                time.sleep(_POLL_SECONDS)
        yield


@contextmanager
def _held_in_database(engine: Engine, name: str, timeout: float) -> Iterator[None]:
    number = int.from_bytes(hashlib.sha256(f"l2c {name}".encode()).digest()[:8], "big", signed=True)
    with engine.connect() as connection:
        connection.execute(text(f"set lock_timeout = {int(1000 * timeout)}"))
        connection.execute(text("select pg_advisory_lock(:number)"), {"number": number})
        try:
            yield
        finally:
            # Fails if the connection was lost and the lock with it: then the work inside may not be relied on.
            connection.execute(text("select pg_advisory_unlock(:number)"), {"number": number})
