"""Router files of the paper's authors (Learning-to-Cache, arXiv 2406.01733), for both of their model families.

A row `i.prob` holds one logit for every unit. The DiT files keep the rows under `routers`, beside the state of the
training, and count them as the DDIM code counts its spaced timesteps, from the last step sampled back to the first.
The U-ViT files are the rows alone, and row i rules the first evaluation of the i-th update of DPM-Solver-2.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from l2c_ray.errors import ScheduleError
from l2c_ray.learning.l2c.router import Router
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.ddim import DDIM
from l2c_ray.sampling.dpm_solver_2 import DPMSolver2
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table
from l2c_ray.storage.pickled import read_pickled
from l2c_ray.storage.tensors import flaw

_ROW = re.compile(r"\d+\.prob")
_ROUTERS = "routers"
_BESIDE_ROUTERS = {"opt", "args"}
_REMEDY = "give the authors' router for this model, sampler and number of steps"


def read_table(path: Path, model: CacheableTransformer, solver: Solver, theta: float) -> Table:
    """The table of the file's router: compute where sigmoid(logit) > theta. The pickle is read, not run.

    Args:
        model: may be without weights; only its number of units is used.
        theta: in [0, 1].

    Raises:
        CheckpointError: the file cannot be read, or would run something.
        ScheduleError: names the row or key that is unknown, missing, not finite, or of another model, sampler or
            number of steps.
    """
    rows, layout = _unwrapped(read_pickled(path), path)
    if layout != solver.name:
        raise ScheduleError(str(path), f"is laid out as a router for {layout}, not {solver.name}", _REMEDY)
    _require_rows(rows, solver.steps, len(model.units), path)
    row_of_step = _rows_backwards(solver) if layout == DDIM.name else _rows_of_updates(solver)
    router = Router(solver.steps, len(model.units), tuple(row_of_step), initial_logit=0.0)
    with torch.no_grad():
        for step, row in row_of_step.items():
            router.row(step).copy_(rows[f"{row}.prob"])
    return router.threshold(theta)


def _rows_backwards(solver: Solver) -> dict[int, int]:
    """The row of each cache step: row 0 is the last step's, and even rows may reuse."""
    row_of_step = {step: solver.steps - 1 - step for step in range(1, solver.steps)}
    return {step: row for step, row in row_of_step.items() if row % 2 == 0}


def _rows_of_updates(solver: Solver) -> dict[int, int]:
    return {step: step // solver.order for step in solver.cache_steps()}


def _unwrapped(content: Any, path: Path) -> tuple[Mapping[Any, Any], str]:
    """The rows, and the name of the sampler for files of this layout."""
    if not isinstance(content, dict):
        raise ScheduleError(str(path), "holds no dictionary of router rows", _REMEDY)
    if _ROUTERS not in content:
        return content, DPMSolver2.name
    for key in content:
        if key not in {_ROUTERS, *_BESIDE_ROUTERS}:
            raise ScheduleError(f"{_label(key)} in {path}", "is no part of a router file", _REMEDY)
    if not isinstance(rows := content[_ROUTERS], dict):
        raise ScheduleError(f"{_ROUTERS} in {path}", "is no dictionary of router rows", _REMEDY)
    return rows, DDIM.name


def _require_rows(rows: Mapping[Any, Any], steps: int, units: int, path: Path) -> None:
    for key in rows:
        if not isinstance(key, str) or not _ROW.fullmatch(key):
            raise ScheduleError(f"{_label(key)} in {path}", "is no row of a router", _REMEDY)
    if len(rows) != steps:
        raise ScheduleError(str(path), f"has {len(rows)} rows for {steps} steps", _REMEDY)
    for name in (f"{row}.prob" for row in range(steps)):
        subject = f"{name} in {path}"
        if name not in rows:
            raise ScheduleError(subject, "is missing", _REMEDY)
        if problem := flaw(rows[name], (units,)):
            raise ScheduleError(subject, problem, _REMEDY)


def _label(key: object) -> str:
    """A key for an error message; a key of another type may be nested too deep to be written."""
    return str(key) if isinstance(key, str | int) else f"a key of type {type(key).__name__}"
