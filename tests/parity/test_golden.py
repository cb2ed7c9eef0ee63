"""Numbers of the authors' own implementation: timesteps, computed units, samples, losses and gradients.

Every pair NAME.json + NAME.safetensors of `L2C_GOLDEN_DIR` is read, whatever its sizes, steps, threshold and guidance.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.learning.l2c.pair_error import pair_error
from l2c_ray.learning.l2c.router import Router
from l2c_ray.models import public_dit, uvit
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.checkpoints import fill
from l2c_ray.sampling.loop import baseline_handlers, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

FOLDER = Path(os.environ.get("L2C_GOLDEN_DIR") or Path(__file__).resolve().parents[3] / "shared" / "golden")
TOLERANCE = 1e-4

Settings = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Golden:
    """A pair, with what this package makes of its settings and weights."""

    settings: Settings
    tensors: Tensors
    model: CacheableTransformer
    solver: Solver
    router: Router
    row_of_step: Callable[[int], int]
    """Row of `router_logits` and key in `computed_units` for a cache step."""


def read_dit(settings: Settings, tensors: Tensors, path: Path) -> Golden:
    shape = public_dit.DiTShape(
        depth=settings["depth"],
        width=settings["hidden_size"],
        heads=settings["num_heads"],
        patch_size=settings["patch_size"],
        image_size=settings["input_size"],
        channels=settings["in_channels"],
        num_classes=settings["num_classes"],
        learn_sigma=settings["learn_sigma"],
    )
    model = public_dit.from_tensors(shape, "golden", _weights(tensors), path)
    solver = make_solver("ddim", settings["num_sampling_steps"], model)
    # Spaced index 0 is the last step sampled.
    return _with_router(settings, tensors, model, solver, lambda step: solver.steps - 1 - step)


def read_uvit(settings: Settings, tensors: Tensors, path: Path) -> Golden:
    shape = uvit.UViTShape(
        depth=settings["depth"],
        width=settings["embed_dim"],
        heads=settings["num_heads"],
        image_size=settings["img_size"],
        channels=settings["in_chans"],
        patch_size=settings["patch_size"],
        num_classes=settings["null_label"],
    )
    model = uvit.build(shape, "golden").eval()
    fill(model, _weights(tensors), path)
    model.requires_grad_(False)
    solver = make_solver("dpm-solver-2", settings["nfe"], model)
    return _with_router(settings, tensors, model, solver, lambda step: step // solver.order)


def _weights(tensors: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def _with_router(
    settings: Settings, tensors: Tensors, model: CacheableTransformer, solver: Solver, row_of_step: Callable[[int], int]
) -> Golden:
    router = Router(solver.steps, len(model.units), solver.cache_steps(), initial_logit=0.0)
    for step in router.cache_steps:
        router.row(step).data.copy_(tensors["router_logits"][row_of_step(step)])
    return Golden(settings, tensors, model, solver, router, row_of_step)


READERS = {"dit": read_dit, "uvit": read_uvit}
PAIRS = [path for path in sorted(FOLDER.glob("*.json")) if path.with_suffix(".safetensors").exists()]

pytestmark = pytest.mark.skipif(not PAIRS, reason=f"no golden pairs in {FOLDER} (set L2C_GOLDEN_DIR)")


def pairs_of(family: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in PAIRS if path.stem.split("_")[0] == family]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    settings, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    return READERS[path.stem.split("_")[0]](settings, tensors, path)


every_pair = pytest.mark.parametrize("golden", [*pairs_of("dit"), *pairs_of("uvit")], indirect=True)
dit_pairs = pytest.mark.parametrize("golden", pairs_of("dit"), indirect=True)
uvit_pairs = pytest.mark.parametrize("golden", pairs_of("uvit"), indirect=True)


def test_every_pair_is_of_a_family_that_is_read() -> None:
    assert {path.stem.split("_")[0] for path in PAIRS} <= READERS.keys()


@dit_pairs
def test_timesteps_of_ddim(golden: Golden) -> None:
    assert list(golden.solver.timesteps) == golden.settings["timestep_map"][::-1]


@uvit_pairs
def test_timesteps_of_dpm_solver_2(golden: Golden) -> None:
    starts = 1000 * golden.tensors["timesteps_continuous"][:-1]
    assert golden.solver.timesteps[::2] == pytest.approx(starts.tolist(), rel=TOLERANCE)
    if "nfe_timesteps" in golden.settings:
        assert golden.solver.timesteps == pytest.approx(golden.settings["nfe_timesteps"], rel=TOLERANCE)


@every_pair
def test_computed_units(golden: Golden) -> None:
    table = golden.router.threshold(golden.settings["threshold"])
    computed = {
        str(golden.row_of_step(step)): [unit for unit, bit in enumerate(table.compute[step]) if bit]
        for step in table.cache_steps
    }
    assert computed == golden.settings["computed_units"]


@pytest.mark.parametrize("run", ["full", "cached"])
@pytest.mark.parametrize(("guided", "rule"), [("no_cfg", None), ("cfg_first3", "first-three")])
@dit_pairs
def test_samples_of_dit(golden: Golden, run: str, guided: str, rule: Any) -> None:
    guidance = Guidance(scale=golden.settings["cfg_scale"], rule=rule) if rule else Guidance(scale=1)
    _assert_samples(golden, run, f"sample.{run}.{guided}", guidance)


@pytest.mark.parametrize("run", ["full", "cached"])
@uvit_pairs
def test_samples_of_uvit(golden: Golden, run: str) -> None:
    guidance = Guidance(scale=golden.settings["cfg_scale"], rule="beyond")
    _assert_samples(golden, run, f"sample.{run}", guidance)


@dit_pairs
def test_losses_and_gradients_of_dit(golden: Golden) -> None:
    for trained in _trained(golden, ".mse"):
        cache_step = golden.solver.steps - int(trained.removeprefix("train.t"))
        error = _error(golden, cache_step, trained)
        assert _relative_error(error, golden.tensors[f"{trained}.mse"]) < TOLERANCE
        _assert_gradient(golden, cache_step, error, f"{trained}.grad_mse_wrt_logits")
        _assert_score_sum(golden, cache_step, trained)


@uvit_pairs
def test_losses_and_gradients_of_uvit(golden: Golden) -> None:
    values_an_image = golden.tensors["train.x_start"][0].numel()
    for trained in _trained(golden, ".sum_sq"):
        cache_step = golden.solver.order * (int(trained.removeprefix("train.step")) + 1)
        images = range(len(golden.tensors["train.labels"]))
        each = torch.stack([_error(golden, cache_step, trained, slice(i, i + 1)) for i in images]) * values_an_image
        assert _relative_error(each, golden.tensors[f"{trained}.sum_sq"]) < TOLERANCE
        mean = _error(golden, cache_step, trained) * values_an_image
        _assert_gradient(golden, cache_step, mean, f"{trained}.grad_mean_sum_sq_wrt_logits")
        _assert_score_sum(golden, cache_step, trained)


def _assert_samples(golden: Golden, run: str, name: str, guidance: Guidance) -> None:
    table = golden.router.threshold(golden.settings["threshold"])
    handlers = ScheduleExecutor(table) if run == "cached" else baseline_handlers
    noise, labels = golden.tensors["sample.noise"], golden.tensors["train.labels"]
    made = sample_images(golden.model, golden.solver, noise, labels, guidance, handlers)
    assert _relative_error(made, golden.tensors[name]) < TOLERANCE


def _trained(golden: Golden, ending: str) -> list[str]:
    trained = sorted(name.removesuffix(ending) for name in golden.tensors if name.endswith(ending))
    assert trained
    return trained


def _error(golden: Golden, cache_step: int, trained: str, images: slice = slice(None)) -> Tensor:
    clean, labels = golden.tensors["train.x_start"][images], golden.tensors["train.labels"][images]
    noise = golden.tensors[f"{trained}.noise"][images]
    return pair_error(golden.model, golden.solver, cache_step, golden.router.scores(cache_step), clean, noise, labels)


def _assert_gradient(golden: Golden, cache_step: int, error: Tensor, name: str) -> None:
    (gradient,) = torch.autograd.grad(error, golden.router.row(cache_step))
    assert _relative_error(gradient, golden.tensors[name]) < TOLERANCE


def _assert_score_sum(golden: Golden, cache_step: int, trained: str) -> None:
    scores = golden.router.scores(cache_step)
    assert _relative_error(scores.sum(), golden.tensors[f"{trained}.score_sum"]) < TOLERANCE


def _relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours.detach() - reference).norm() / reference.norm()).item()
