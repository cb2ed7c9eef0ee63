"""Reading a TOML file into a frozen, typed config, with errors that name the key."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage import places
from l2c_ray.storage.addresses import parse_s3


def absolute(folder: str) -> str:
    """The folder from the root on: workers run in folders of their own, where a relative path would be another."""
    if "://" in folder:
        raise ValueError("is an address, and only folders can be used")
    return str(places.absolute(folder))


def folder_or_bucket(address: str) -> str:
    """The folder from the root on, or `s3://bucket/prefix` as it is."""
    if "://" not in address:
        return absolute(address)
    try:
        parse_s3(address)
    except StorageError as error:
        raise ValueError("is neither a folder nor s3://bucket/prefix") from error
    return address


def lasting(address: str) -> str:
    """The address as it is, unless a job would lose what it writes there."""
    if "://" not in address and places.is_lost(address):
        raise ValueError(f"{places.LOST}: {places.WAY_OUT}, $L2C_HOME/... or s3://...")
    return address


Folder = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
"""A folder or a file that is read; a job finds a relative one in what was submitted with it."""
Place = Annotated[str, Field(min_length=1), AfterValidator(folder_or_bucket)]
"""A folder that every node sees, or s3://bucket/prefix, to read from."""
Destination = Annotated[str, Field(min_length=1), AfterValidator(lasting), AfterValidator(folder_or_bucket)]
"""A place to write to, which in a job is no relative one."""


def _listed(given: Any) -> Any:
    return tuple(given) if isinstance(given, list | tuple) else (given,)


ONE_OR_MORE = (Field(min_length=1), BeforeValidator(_listed))
"""Of a key with a list, for which a single value stands too."""


class Section(BaseModel):
    """A table of a config file: unknown keys, wrong types and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)

    @classmethod
    def parse(cls, values: dict[str, Any], source: str, table: str = "") -> Self:
        """The section made of `values`; `source` and the name of the table are named in errors.

        Raises:
            ConfigError: a key is unknown, missing or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _first_problem(cls, error, source, table) from error


class JobConfig(Section):
    """The whole config of one job."""

    @classmethod
    def read(cls, path: Path | None, overrides: Sequence[str] = ()) -> Self:
        """The config in the TOML file `path`, with `section.key=value` overrides (values in TOML's own syntax).

        Without a file the overrides are all that is given.

        Raises:
            ConfigError: the file is missing or not TOML, or a key is unknown, missing or out of range.
        """
        values = cls.values_in(path) if path else {}
        for override in overrides:
            _apply(override, values)
        return cls.parse(values, source=str(path or "the command line"))

    @classmethod
    def values_in(cls, path: Path) -> dict[str, Any]:
        """What the file says, before any override."""
        return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "give the path of a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML ({error})", "correct the file") from error


def value_of(key: str, text: str) -> Any:
    """What is written after `key=` on a command line: a value in TOML's syntax, or the text itself.

    Raises:
        ConfigError: TOML reads it as something that has no value.
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    except (ValueError, RecursionError) as error:
        raise ConfigError(key, f"is set to no value of TOML ({error})", "write it as section.key=value") from error


def _apply(override: str, values: dict[str, Any]) -> None:
    key, equals, text = override.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(override, "is not an override", "write it as section.key=value")
    value = value_of(key, text)
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(key, f"{table} is a value, not a table", "name a key of a table")
    values[last] = value


def _first_problem(config: type[BaseModel], error: ValidationError, source: str, table: str) -> ConfigError:
    problem = error.errors(include_url=False, include_input=True)[0]
    # Where in a list it is says the value; a value that stands for a list of one has no place in it.
    key = ".".join(part for part in (table, *problem["loc"]) if isinstance(part, str) and part)
    subject = f"{key} in {source}" if key else source
    if problem["type"] == "extra_forbidden":
        return ConfigError(subject, "is not a key of this config", _did_you_mean(config, problem["loc"]))
    if problem["type"] == "missing":
        return ConfigError(subject, "is missing", "add it")
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = repr(given) if isinstance(given, str | int | float) else ""
    return ConfigError(
        subject, message[0].lower() + message[1:], f"it is {shown} now" if 0 < len(shown) < 80 else "change it"
    )


def _did_you_mean(config: type[BaseModel], location: tuple[int | str, ...]) -> str:
    section: Any = config
    for part in location[:-1]:
        # Of a table with keys of the user's own, what stands behind each of them.
        entry = get_args(section)[1:]
        section = entry[0] if entry else section.model_fields[part].annotation
    names = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(names)}"
