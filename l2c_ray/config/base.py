"""Reading a TOML file into a frozen, typed config, with errors that name the key."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from l2c_ray.config.overrides import Override, blamed, take_texts
from l2c_ray.config.toml import parse_toml
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage import places
from l2c_ray.storage.addresses import parse_s3
from l2c_ray.storage.files import read_text

_COMMAND_LINE = "the command line"
_MOST_BYTES = 1 << 20
"""Size limit of a config; the shipped ones have a thousandth of it."""


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
"""Validation of a key with a list that takes a single value too."""


class Section(BaseModel):
    """A table of a config file: unknown keys, wrong types and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)
    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of keys, by their old ones, which are refused with the new one."""

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
    def read(cls, path: Path | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Self:
        """The config in the TOML file `path`, with what a command line gives in place of it.

        Args:
            path: without a file, all is given by the other two.
            overrides: `section.key=value`, with values in TOML's own syntax, or texts without quotes.
            options: by dotted key, values that other options of the command gave; overrides go before them.

        Raises:
            ConfigError: the file is missing or not TOML, or a key is unknown, missing or out of range.
        """
        values = cls.values_in(path) if path else {}
        source = str(path or _COMMAND_LINE)
        given = [Override(key, value, place=_COMMAND_LINE) for key, value in (options or {}).items()]
        given += map(Override.parse, overrides)
        for override in given:
            override.put(values, override.value)
        cls.take_texts(given, values)
        try:
            return cls.parse(values, source)
        except ConfigError as error:
            written = cls.values_in(path) if path else {}
            raise blamed(error, source, written, reversed(given)) from error

    @classmethod
    def values_in(cls, path: Path) -> dict[str, Any]:
        """Values of the file, before any override."""
        return read_toml(path)

    @classmethod
    def take_texts(cls, overrides: Sequence[Override], values: dict[str, Any]) -> None:
        """See `l2c_ray.config.overrides.take_texts`."""
        take_texts(cls, overrides, values)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        return parse_toml(read_text(path, _MOST_BYTES))
    except StorageError as error:
        raise ConfigError(error.subject, error.problem, "give the path of a TOML file in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML ({error})", "correct the file") from error


def _first_problem(config: type[BaseModel], error: ValidationError, source: str, table: str) -> ConfigError:
    problem = error.errors(include_url=False, include_input=True)[0]
    # Where in a list it is says the value; a value that stands for a list of one has no place in it.
    key = ".".join(part for part in (table, *problem["loc"]) if isinstance(part, str) and part)
    subject = f"{key} in {source}" if key else source
    if problem["type"] == "extra_forbidden":
        return ConfigError(subject, "is not a key of this config", _did_you_mean(config, problem["loc"]))
    if problem["type"] == "missing":
        return ConfigError(subject, "is missing", "add it")
    message = problem["msg"].removeprefix("Value error, ").removesuffix(" after validation")
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
    key = str(location[-1])
    if key in section.renamed:
        return f"it is called {section.renamed[key]} now"
    names = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(names)}"
