"""Identity of a study: whether the one of this name is the config's, though any program may have made or changed it."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from l2c_ray.config.search import SearchConfig
from l2c_ray.errors import ConfigError
from l2c_ray.search.space import Space
from l2c_ray.storage.objects import ObjectStore

SETTINGS, DRIVERS, PLACE = "settings", "drivers", "place"
"""User attributes of a study: settings that all its drivers share, their number, and the mark of its storage."""
PLACE_FILE = "study.txt"
"""File with that mark, in the storage of the study's trials."""

_REMEDY = "choose another name or the same settings"


class _Noted(BaseModel):
    model_config = ConfigDict(strict=True)


class _Measured(_Noted):
    """User attributes of a trial with a measured schedule, as in `results.ScheduleMeasurement`."""

    compute_share: float
    mse: float
    seconds: float
    schedule: str
    sha256: str


class _Derived(_Measured):
    settings: dict[str, str | float]


class _Attributes(_Noted):
    """User attributes of any trial that drivers go by (see `leases`)."""

    driver: str | None = None
    lease_until: Annotated[str, AfterValidator(datetime.fromisoformat)] | None = None
    retry_of: int | None = None
    attempt: Annotated[int, Field(ge=0)] = 1
    origin: int | None = None
    parent: int | None = None
    point_of_parent: int | None = None
    derived: list[_Derived] = []
    warm_from: int | None = None


class _AttributesOfAFinished(_Measured, _Attributes):
    """User attributes of a finished trial."""


def lasting_settings(config: SearchConfig) -> dict[str, Any]:
    """Settings that all drivers of a study share."""
    return config.model_dump(mode="json", include={"learn", "space", "objective", "derive"})


def require_the_same(study: optuna.Study, config: SearchConfig, space: Space, objectives: int) -> None:
    """Refuses a study that is not the config's; changes nothing.

    Raises:
        ConfigError: the study is another program's, was begun with other settings, or holds trials of another space.
    """
    noted = study.user_attrs
    if SETTINGS not in noted and (study.get_trials(deepcopy=False) or noted):
        raise _another(study, "was made by another program")
    if study.directions != [StudyDirection.MINIMIZE] * objectives:
        theirs = ", ".join(direction.name.lower() for direction in study.directions)
        raise _another(study, f"has other objectives ({theirs}, not {objectives} to minimize)")
    drivers, before = noted.get(DRIVERS, 0), noted.get(SETTINGS, lasting_settings(config))
    if not isinstance(drivers, int) or not isinstance(before, Mapping):
        raise _another(study, f"has user attributes {SETTINGS} and {DRIVERS} of another program")
    if key := _first_difference(before, lasting_settings(config)):
        raise _another(study, f"was begun with another {key}")
    for trial in study.get_trials(deepcopy=False):
        _require_trial_of(study, trial, space)


def mark_storage(study: optuna.Study, place: ObjectStore) -> None:
    """Marks the storage of the trials' checkpoints and schedules as the study's, under its lock.

    A trial continues from the checkpoint in its folder, which another study of the same name may have left there.

    Raises:
        ConfigError: the place holds another study's trials, a run, or something else.
    """
    mark = study.user_attrs.get(PLACE)
    found = place.get(PLACE_FILE).decode(errors="replace") if place.find(PLACE_FILE) else None
    if found is not None and found == mark:
        return
    if place.names():
        problem = f"{place.address} holds the trials of another study of this name, or something else"
        raise ConfigError("study.name", problem, "choose another name or remove that folder")
    if mark is None:
        mark = uuid.uuid4().hex
        study.set_user_attr(PLACE, mark)
    place.put(PLACE_FILE, str(mark).encode())


def _require_trial_of(study: optuna.Study, trial: FrozenTrial, space: Space) -> None:
    is_complete = trial.state == TrialState.COMPLETE
    wanted = space if is_complete else space.keys() & trial.params.keys()
    if odd := sorted(wanted ^ trial.params.keys()):
        there = "without" if odd[0] in space else "with"
        raise _another(study, f"has trial {trial.number} {there} space.{odd[0]}")
    for key in wanted:
        try:
            check_distribution_compatibility(trial.distributions[key], space[key])
        except ValueError as error:
            raise _another(study, f"has trial {trial.number} of another range of space.{key}") from error
    try:
        (_AttributesOfAFinished if is_complete else _Attributes).model_validate(trial.user_attrs)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"has trial {trial.number} of another program (user attribute {place}: {first['msg'].lower()})"
        raise _another(study, problem) from error


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any], table: str = "") -> str:
    """The first key whose values differ; empty if none do."""
    for name in {**now, **before}:
        mine, theirs = now.get(name), before.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            if key := _first_difference(theirs, mine, f"{table}{name}."):
                return key
        elif mine != theirs:
            return f"{table}{name}"
    return ""


def _another(study: optuna.Study, problem: str) -> ConfigError:
    return ConfigError("study.name", f"study {study.study_name} {problem}", _REMEDY)
