"""Values that a command line gives for keys of a config, in place of the file's."""

from collections.abc import Iterable, Mapping
from tomllib import TOMLDecodeError
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ValidationError

from l2c_ray.config.toml import MOST_PARTS, parse_toml
from l2c_ray.errors import ConfigError, L2CError

OPTION = "--set"
_SYNTAX = "write it as section.key=value"


class Override(NamedTuple):
    """One value."""

    key: str
    """Names of tables and that of the key, with dots between them."""
    value: Any
    text: str | None = None
    """The text as it was written, if it was written in TOML's syntax."""
    place: str = OPTION
    """Name of its origin in errors."""

    @classmethod
    def parse(cls, given: str) -> Self:
        """The override that `section.key=value` is; the value is in TOML's syntax, or a text without quotes.

        Raises:
            ConfigError: it is none.
        """
        key, equals, text = (part.strip() for part in given.partition("="))
        if not equals or not all(key.split(".")) or key.count(".") >= MOST_PARTS:
            raise ConfigError(f"{OPTION} {given}", "is not an override", _SYNTAX)
        return cls(key, value_of(f"{key} in {OPTION}", text), text)

    def put(self, values: dict[str, Any], value: Any) -> None:
        """Gives the key in `values` the value.

        Raises:
            ConfigError: it is a key of what is no table.
        """
        *tables, last = self.key.split(".")
        for table in tables:
            values = values.setdefault(table, {})
            if not isinstance(values, dict):
                raise ConfigError(f"{self.key} in {self.place}", f"{table} is a value, not a table", "name another key")
        values[last] = value

    def below(self, table: str) -> Self | None:
        """The same override of the table's content; None for one of other tables."""
        inner = self.key.removeprefix(f"{table}.")
        return None if inner == self.key else self._replace(key=inner)


def value_of(subject: str, text: str) -> Any:
    """The value written after `key=` on a command line: parsed by TOML's syntax, or the text itself.

    Raises:
        ConfigError: TOML reads it as something that has no value; says so of the subject.
    """
    try:
        read = parse_toml(f"value = {text}")
    except TOMLDecodeError:
        return text.strip()
    except (ValueError, RecursionError) as error:
        raise ConfigError(subject, f"is set to no value of TOML ({error})", _SYNTAX) from error
    # Whoever writes further lines means no value.
    return read["value"] if len(read) == 1 else text.strip()


def take_texts(config: type[BaseModel], overrides: Iterable[Override], values: dict[str, Any]) -> None:
    """Gives a key the very text of its override if it takes that, and not what TOML reads there.

    So a name may be `2026`, `true` or `1e3` without quotes.
    """
    latest = {override.key: override for override in overrides}
    faults = _faults(config, values)
    for override in latest.values():
        written_as_such = override.text is None or isinstance(override.value, str | list | dict)
        if written_as_such or not _any_within(override.key, faults):
            continue
        override.put(values, override.text)
        if _any_within(override.key, _faults(config, values)):
            override.put(values, override.value)


def blamed(error: ConfigError, source: str, written: Mapping[str, Any], overrides: Iterable[Override]) -> ConfigError:
    """The error, whose subject is a key in `source`, with the place where the key was really given.

    Args:
        written: the values in the source itself.
    """
    key = error.subject.removesuffix(f" in {source}")
    for override in overrides if key != error.subject else ():
        if _is_within(override.key, key):
            return ConfigError(f"{key} in {override.place}", error.problem, error.remedy)
        if _is_within(key, override.key):
            places = f"{source} and {override.place}" if _is_there(key, written) else override.place
            return ConfigError(f"{key} in {places}", error.problem, error.remedy)
    return error


def _faults(config: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """The keys at fault."""
    try:
        config.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return [".".join(map(str, problem["loc"])) for problem in problems]
    except L2CError:
        # Of a file that a key names; whoever reads the config next tells it.
        return [""]
    return []


def _any_within(table: str, keys: Iterable[str]) -> bool:
    return any(_is_within(table, key) for key in keys)


def _is_within(table: str, key: str) -> bool:
    return key == table or key.startswith(f"{table}.")


def _is_there(key: str, values: Any) -> bool:
    table, _, inner = key.partition(".")
    there = isinstance(values, Mapping) and table in values
    return there and (not inner or _is_there(inner, values[table]))
