"""The time of each unit on a device, as `l2c profile` writes it and a time budget reads it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from l2c_ray.config.base import Section, absolute
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.files import read_text

_REMEDY = "make it by l2c profile"
_MOST_BYTES = 1 << 20
"""Size limit of the file, which has a line for each unit."""

Seconds = Annotated[float, Field(ge=0)]


class Profile(Section):
    """Seconds of one evaluation."""

    format: Literal["l2c-profile/1"] = "l2c-profile/1"
    model: str
    device: str
    dtype: str
    batch_size: Annotated[int, Field(ge=1)]
    """Images in the evaluation; guidance makes two of one."""
    units: dict[str, Seconds]
    """By name: what reusing the unit gives back, the time of computing it less that of its forecast."""
    shared: Seconds
    """Seconds of an evaluation that reuses every unit."""

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """The profile in `text`; `source` is named in errors.

        Raises:
            ConfigError: it is not JSON, or a field is missing, unknown or out of range.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(source, f"is not JSON ({error})", _REMEDY) from error
        if not isinstance(values, dict):
            raise ConfigError(source, "is no JSON object", _REMEDY)
        return cls.parse(values, source)

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1) + "\n"

    def require(self, model: str, units: list[str]) -> None:
        """Refuses another model than the one it was measured on.

        Raises:
            ConfigError: it was measured on another, or knows of no unit that takes time.
        """
        if self.model != model or list(self.units) != units:
            problem = f"was measured on {self.model} with {len(self.units)} units, not on {model} with {len(units)}"
            raise ConfigError("router.profile", problem, "measure this model by l2c profile")
        if not any(self.units.values()):
            raise ConfigError("router.profile", "has no unit that takes time, so that reuse saves none", _REMEDY)


def _read(given: Any) -> Any:
    """A path stands for what is in the file: workers on other machines do not see it."""
    if not isinstance(given, str):
        return given
    path = absolute(given)
    try:
        return Profile.from_json(read_text(Path(path), _MOST_BYTES), source=path)
    except StorageError as error:
        raise ConfigError("router.profile", f"{path} {error.problem}", _REMEDY) from error


ProfileFile = Annotated[Profile, BeforeValidator(_read)]
"""Given in a config as the path of the file."""
