"""Numbers of the authors' own implementation: samples full and cached, losses, gradients, thresholded units."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from public_dit import load_public_dit
from safetensors.torch import load_file
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.learning.objective import pair_error
from l2c_ray.learning.router import Router
from l2c_ray.models.dit import DiT
from l2c_ray.sampling.ddim import DDIM
from l2c_ray.sampling.loop import sample_images

FOLDER = Path(os.environ.get("L2C_GOLDEN_DIR") or Path(__file__).resolve().parents[3] / "shared" / "golden")
PAIRS = sorted(FOLDER.glob("dit_*.json"))
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not PAIRS, reason=f"no golden pairs in {FOLDER} (set L2C_GOLDEN_DIR)")


@dataclass(frozen=True)
class Golden:
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    model: DiT
    solver: DDIM
    router: Router

    def step(self, spaced_index: int) -> int:
        """Spaced index 0 is the last step sampled."""
        return self.solver.steps - 1 - spaced_index


@pytest.fixture(scope="module", params=PAIRS, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    settings = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    model = load_public_dit(settings, weights)
    solver = DDIM(model.scheduler, settings["num_sampling_steps"])
    router = Router(solver.steps, len(model.units), initial_logit=0.0)
    for step in router.cache_steps:
        router.row(step).data.copy_(tensors["router_logits"][solver.steps - 1 - step])
    return Golden(settings, tensors, model, solver, router)


def test_timesteps(golden: Golden) -> None:
    assert list(golden.solver.timesteps) == golden.settings["timestep_map"][::-1]


def test_computed_units(golden: Golden) -> None:
    mask = golden.router.threshold(golden.settings["threshold"])
    for spaced_index, units in golden.settings["computed_units"].items():
        row = mask[golden.step(int(spaced_index))]
        assert [unit for unit, bit in enumerate(row) if bit] == units


def test_full_samples(golden: Golden) -> None:
    made = sample_images(golden.model, golden.solver, golden.tensors["sample.noise"], golden.tensors["train.labels"], 1)
    assert _relative_error(made, golden.tensors["sample.full.no_cfg"]) < TOLERANCE


def test_cached_samples(golden: Golden) -> None:
    executor = ScheduleExecutor(golden.router.threshold(golden.settings["threshold"]))
    noise, labels = golden.tensors["sample.noise"], golden.tensors["train.labels"]
    made = sample_images(golden.model, golden.solver, noise, labels, 1, executor)
    assert _relative_error(made, golden.tensors["sample.cached.no_cfg"]) < TOLERANCE


def test_losses_and_gradients(golden: Golden) -> None:
    trained = sorted(name.removesuffix(".mse") for name in golden.tensors if name.endswith(".mse"))
    assert trained
    for prefix in trained:
        cache_step = golden.step(int(prefix.removeprefix("train.t"))) + 1
        scores = golden.router.scores(cache_step)
        noise, labels = golden.tensors[f"{prefix}.noise"], golden.tensors["train.labels"]
        clean = golden.tensors["train.x_start"]
        error = pair_error(golden.model, golden.solver, cache_step, scores, clean, noise, labels)
        (gradient,) = torch.autograd.grad(error, golden.router.row(cache_step))
        assert _relative_error(error, golden.tensors[f"{prefix}.mse"]) < TOLERANCE
        assert _relative_error(gradient, golden.tensors[f"{prefix}.grad_mse_wrt_logits"]) < TOLERANCE
        assert _relative_error(scores.sum(), golden.tensors[f"{prefix}.score_sum"]) < TOLERANCE


def _relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()
