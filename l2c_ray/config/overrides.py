"""Values that a command line gives for keys of a config, in place of the file's."""

from collections.abc import Iterable, Mapping
from tomllib import TOMLDecodeError
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ValidationError

from l2c_ray.config.toml import MOST_PARTS, parse_toml
from l2c_ray.errors import ConfigError, L2CError
from l2c_ray.printable import printable

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
    """Gives a key the very text of its override if it is a key of text, or takes that and not what TOML reads there.

    So a name may be `2026`, `true` or `1e3` without quotes.
    """
    latest = {override.key: override for override in overrides}
    faults = _faults(config, values)
    for override in latest.values():
        if override.text is None or isinstance(override.value, str):
            continue
        is_one = not isinstance(override.value, list | dict)
        # A list has faults of its own at its parts.
        found = [fault for fault in faults if fault.key == override.key or (is_one and fault.is_in(override))]
        if not found:
            continue
        override.put(values, override.text)
        if any(fault.wants_text for fault in found):
            continue
        if any(fault.is_in(override) for fault in _faults(config, values)):
            override.put(values, override.value)


def blamed(error: ConfigError, source: str, written: Mapping[str, Any], overrides: Iterable[Override]) -> ConfigError:
    """The error, whose subject is a key in `source`, with the place where the key was really given.

    Args:
        written: the values in the source itself.
    """
    # A subject is printable whatever the key is.
    key = error.subject.removesuffix(f" in {printable(source)}")
    for override in overrides if key != error.subject else ():
        given = printable(override.key)
        if _is_within(given, key):
            return ConfigError(f"{key} in {override.place}", error.problem, error.remedy)
        if _is_within(key, given):
            places = f"{source} and {override.place}" if _is_there(key, written) else override.place
            return ConfigError(f"{key} in {places}", error.problem, error.remedy)
    return error


class _Fault(NamedTuple):
    """A key with a value that it does not take."""

    key: str
    wants_text: bool

    def is_in(self, override: Override) -> bool:
        return _is_within(override.key, self.key)


def _faults(config: type[BaseModel], values: Mapping[str, Any]) -> list[_Fault]:
    try:
        config.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return [_Fault(".".join(map(str, each["loc"])), each["type"] == "string_type") for each in problems]
    except L2CError:
        # Of a file that a key names; whoever reads the config next tells it.
        return [_Fault("", wants_text=False)]
    return []


def _is_within(table: str, key: str) -> bool:
    return key == table or key.startswith(f"{table}.")


def _is_there(key: str, values: Any) -> bool:
    table, _, inner = key.partition(".")
    there = isinstance(values, Mapping) and table in values
    return there and (not inner or _is_there(inner, values[table]))
