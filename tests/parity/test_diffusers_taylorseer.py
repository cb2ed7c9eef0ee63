"""The Taylor rule against diffusers' own TaylorSeer hooks, on the embedded DiT at equal settings."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers.hooks import HookRegistry, TaylorSeerCacheConfig, apply_taylorseer_cache
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.hooks.taylorseer_cache import _TAYLORSEER_CACHE_HOOK

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.models import zoo
from l2c_ray.models.dit import DiT
from l2c_ray.policies.taylor import Taylor, taylor
from l2c_ray.sampling.loop import baseline_handlers
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

UNITS = r"transformer_blocks\.\d+\.(attn1|ff)"
STEPS = 20


@contextmanager
def diffusers_taylorseer(model: DiT, config: TaylorSeerCacheConfig) -> Iterator[None]:
    """Diffusers' hooks on the modules that are our units."""
    apply_taylorseer_cache(model.transformer, config)
    _set_cache_context(model.transformer, CacheContext("both halves of a guided batch"))
    yield
    HookRegistry.check_if_exists_or_initialize(model.transformer).remove_hook(_TAYLORSEER_CACHE_HOOK, recurse=True)


@pytest.mark.parametrize(
    ("interval", "order", "before", "after"), [(2, 2, 1, None), (3, 2, 3, 18), (4, 1, 2, 17), (5, 2, 4, None)]
)
def test_taylor_makes_the_images_of_diffusers_hooks(interval: int, order: int, before: int, after: int | None) -> None:
    model = zoo.load("digits-dit")
    assert isinstance(model, DiT)
    pipeline = Pipeline(model, make_solver("ddim", STEPS, model), Guidance(scale=1.5))
    settings = Taylor(interval=interval, order=order, disable_cache_before_step=before)
    if after is not None:
        settings = settings.model_copy(update={"disable_cache_after_step": after})
    labels, seeds = [0, 3, 7], [1, 2, 3]
    ours = pipeline.generate_batch(labels, seeds, ScheduleExecutor(taylor(STEPS, len(model.units), settings)))
    config = TaylorSeerCacheConfig(
        cache_interval=interval,
        max_order=order,
        disable_cache_before_step=before,
        disable_cache_after_step=after,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[UNITS],
    )
    with diffusers_taylorseer(model, config):
        theirs = pipeline.generate_batch(labels, seeds, baseline_handlers)
    baseline = pipeline.generate_batch(labels, seeds, baseline_handlers)
    assert (theirs - baseline).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
