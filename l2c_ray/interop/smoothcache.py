"""SmoothCache's JSON (arXiv 2411.10510): under each key one 0 (reuse) or 1 (compute) for every step.

Keys are kinds (`attn`, `mlp`), which decide for all blocks alike, or single units (`attn-0`, `mlp-0`, ...), blocks
numbered in the order of a forward pass.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2c_ray.errors import ScheduleError
from l2c_ray.interop.formats import Export, dropped_forecast
from l2c_ray.schedule import ModelIdentity, Schedule, Table
from l2c_ray.storage.files import read_text

_KINDS = {"attention": "attn", "mlp": "mlp"}
"""SmoothCache's names for the kinds of units."""
_MOST_BYTES = 4 << 20
"""Size limit, reached by 1000 steps and 1000 units."""
_REMEDY = "give a SmoothCache schedule for this model and number of steps"


def read_table(path: Path, model: ModelIdentity, steps: int) -> Table:
    """The table in the file; its cache steps are those at which anything is reused.

    Raises:
        StorageError: the file cannot be read.
        ScheduleError: names the key that is unknown, missing or doubled, or that has another number of steps, other
            values than 0 and 1, or a reuse at step 0.
    """
    columns = _parsed(read_text(path, _MOST_BYTES), path)
    by_unit = _unit_keys(model)
    by_kind = [key.partition("-")[0] for key in by_unit]
    keys = by_kind if set(columns) & set(_KINDS.values()) else by_unit
    for key in columns:
        if key not in keys:
            raise ScheduleError(f"{key} in {path}", f"is no unit of {model.name}", _REMEDY)
    for key in keys:
        if key not in columns:
            raise ScheduleError(f"{key} in {path}", "is missing", _REMEDY)
        _require_column(columns[key], steps, f"{key} in {path}")
    return Table.of(tuple(zip(*(columns[key] for key in keys), strict=True)))


def export(schedule: Schedule) -> Export:
    """The schedule in SmoothCache's format, by unit.

    Raises:
        ScheduleError: SmoothCache has no name for a kind of unit.
    """
    columns = zip(*schedule.table.compute, strict=True)
    by_unit = dict(zip(_unit_keys(schedule.model), columns, strict=True))
    lost = "which model, sampler and guidance the schedule is for, where it came from, what it costs and its quality"
    return Export(json.dumps(by_unit), (lost, *dropped_forecast(schedule.table)))


def _unit_keys(model: ModelIdentity) -> list[str]:
    """SmoothCache's keys for all units in order, for instance `attn-0`."""
    names = [name.rpartition(".") for name in model.units]
    blocks = list(dict.fromkeys(block for block, _, _ in names))
    for block, _, kind in names:
        if kind not in _KINDS:
            known = " and ".join(_KINDS)
            raise ScheduleError(f"{block}.{kind}", "has no name in SmoothCache's format", f"take units of kind {known}")
    return [f"{_KINDS[kind]}-{blocks.index(block)}" for block, _, kind in names]


def _parsed(text: str, path: Path) -> Mapping[str, Any]:
    try:
        # Objects as tuples of their pairs, which shows keys that are there twice.
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(str(path), f"is not JSON ({error})", _REMEDY) from error
    if not isinstance(pairs, tuple):
        raise ScheduleError(str(path), "is no JSON object", _REMEDY)
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ScheduleError(f"{key} in {path}", "is there more than once", _REMEDY)
    return dict(pairs)


def _require_column(column: Any, steps: int, subject: str) -> None:
    if not isinstance(column, Sequence) or any(type(bit) is not int or bit not in (0, 1) for bit in column):
        raise ScheduleError(subject, "is no list of 0 and 1", _REMEDY)
    if len(column) != steps:
        raise ScheduleError(subject, f"has {len(column)} values for {steps} steps", _REMEDY)
    if not column[0]:
        raise ScheduleError(subject, "reuses at step 0, where there is nothing yet to reuse", _REMEDY)
