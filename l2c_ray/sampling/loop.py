"""The sampling loop: noise in, images out, with a unit handler for each step."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from l2c_ray.models.base import CacheableTransformer, UnitHandler, compute_all
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Guidance

UnitHandlers = Callable[[int], UnitHandler]
"""The unit handler of step k, in [0, steps); called once for each step, in order."""

Evaluate = Callable[[CacheableTransformer, Tensor, float, Tensor, Guidance, UnitHandler], Tensor]
"""A function with the signature of `evaluate_guided`."""


def baseline_handlers(step: int) -> UnitHandler:
    """The unit handlers of the baseline: every unit is computed at every step."""
    return compute_all


def noise_from_seeds(seeds: Sequence[int], image_shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise [len(seeds), *image_shape]: row i depends on seed i alone, not on the batch."""
    rows = [torch.randn(image_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def evaluate_guided(
    model: CacheableTransformer,
    sample: Tensor,
    timestep: float,
    labels: Tensor,
    guidance: Guidance,
    handler: UnitHandler,
) -> Tensor:
    """One evaluation with classifier-free guidance.

    Both halves run as one batch, so that a unit's cached value covers both.
    """
    if not guidance.needs_unlabelled:
        conditional: Tensor = model(sample, _times(timestep, sample), labels, handler)
        return conditional
    doubled = torch.cat([sample, sample])
    both_labels = torch.cat([labels, torch.full_like(labels, model.null_label)])
    conditional, unconditional = model(doubled, _times(timestep, doubled), both_labels, handler).chunk(2)
    return guide(conditional, unconditional, guidance)


def guide(conditional: Tensor, unconditional: Tensor, guidance: Guidance) -> Tensor:
    """The guided output [batch, channels, height, width] of two evaluations, by the rule of `Guidance`."""
    extra = guidance.scale - (0 if guidance.rule == "beyond" else 1)
    guided: Tensor = conditional + extra * (conditional - unconditional)
    if guidance.rule == "first-three":
        return torch.cat([guided[:, :3], conditional[:, 3:]], dim=1)
    return guided


def trajectory(
    model: CacheableTransformer,
    solver: Solver,
    noise: Tensor,
    labels: Tensor,
    guidance: Guidance,
    handlers: UnitHandlers,
    evaluate: Evaluate = evaluate_guided,
) -> Iterator[Tensor]:
    """The sample [batch, *image_shape] after each step of the solver; the last one is the result.

    A step is taken when its sample is requested; `evaluate` replaces `evaluate_guided`.
    """
    sample = noise
    advance = solver.begin()
    for step, timestep in enumerate(solver.timesteps):
        output = evaluate(model, sample, timestep, labels, guidance, handlers(step))
        sample = advance(step, sample, output)
        yield sample


@torch.inference_mode()
def sample_images(
    model: CacheableTransformer,
    solver: Solver,
    noise: Tensor,
    labels: Tensor,
    guidance: Guidance,
    handlers: UnitHandlers = baseline_handlers,
) -> Tensor:
    """Clean samples [batch, *image_shape] from `noise` of that shape, under `labels` [batch]."""
    (images,) = deque(trajectory(model, solver, noise, labels, guidance, handlers), maxlen=1)
    return images


def _times(timestep: float, sample: Tensor) -> Tensor:
    return torch.full((len(sample),), timestep, device=sample.device)
