"""Dynamic rules, rivals of schedules: executors that decide while they sample which units to reuse.

Their decisions depend on the input and are made for a request's whole batch, so that no schedule comes of them and
their cost is known only afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from l2c_ray.config.base import Section

if TYPE_CHECKING:
    from torch import Tensor

    from l2c_ray.models.base import Unit, UnitHandler


class Threshold(Section):
    """Settings of a dynamic rule."""

    threshold: Annotated[float, Field(ge=0)]
    """Relative L1 change from which on everything is computed; at 0 nothing is ever reused."""


class DynamicExecutor(ABC):
    """Unit handlers of one request: the first units are always computed, and their outputs decide about all others.

    Holds that request's cache, so every request needs an executor of its own.
    """

    computed: list[list[int]]
    """[steps so far][units] of 0 (reused) and 1 (computed)."""

    def __init__(self, units: int, watched: int, threshold: float) -> None:
        self.computed = []
        self._units = units
        self._watched = watched
        self._threshold = threshold
        self._values: dict[int, Tensor] = {}
        """The last outputs of the units that are not watched."""

    def __call__(self, step: int) -> UnitHandler:
        """The unit handler of `step`; steps must be asked for in order."""
        row = [0] * self._units
        self.computed.append(row)
        outputs: list[Tensor] = []
        all_others = True

        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            nonlocal all_others
            if unit < self._watched:
                row[unit] = 1
                outputs.append(compute())
                if len(outputs) == self._watched:
                    all_others = self._must_compute(outputs)
                return outputs[-1]
            if all_others:
                row[unit] = 1
                self._values[unit] = compute()
            return self._values[unit]

        return handle

    @abstractmethod
    def _must_compute(self, outputs: list[Tensor]) -> bool:
        """Whether this step computes the other units, by the outputs of those that are watched; asked every step."""


class FirstBlockCache(DynamicExecutor):
    """Reuses all other blocks while the first one's outputs are close to those of the last step in full.

    The rule of ParaAttention's and diffusers' first-block cache, on the outputs of both branches of the block.
    """

    def __init__(self, units: Sequence[Unit], settings: Threshold) -> None:
        in_first_block = sum(unit.block == units[0].block for unit in units)
        super().__init__(len(units), in_first_block, settings.threshold)
        self._at_full_step: list[Tensor] = []

    def _must_compute(self, outputs: list[Tensor]) -> bool:
        if self._at_full_step and relative_change(outputs, self._at_full_step) < self._threshold:
            return False
        self._at_full_step = outputs
        return True


class TeaCache(DynamicExecutor):
    """Reuses all other units until the first one's changes from step to step add up to the threshold.

    The rule of TeaCache (arXiv 2411.19108) without its polynomial, which is fitted to each model, and on the first
    unit's output in place of its modulated input.
    """

    def __init__(self, units: Sequence[Unit], settings: Threshold) -> None:
        super().__init__(len(units), 1, settings.threshold)
        self._before: list[Tensor] = []
        self._accumulated = 0.0

    def _must_compute(self, outputs: list[Tensor]) -> bool:
        before, self._before = self._before, outputs
        if before:
            self._accumulated += float(relative_change(outputs, before))
            if self._accumulated < self._threshold:
                return False
        self._accumulated = 0.0
        return True


def relative_change(values: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """L1 distance of the values to a reference of the same shapes, relative to the reference's norm, all in one.

    Where both are zero it is not a number, which is below no threshold.
    """
    import torch

    distances = [(value - other).abs().sum() for value, other in zip(values, reference, strict=True)]
    return torch.stack(distances).sum() / torch.stack([other.abs().sum() for other in reference]).sum()


@dataclass(frozen=True)
class DynamicRule:
    """A dynamic rule by its name in `DYNAMIC_RULES`."""

    settings: type[Threshold]
    executor: Callable[[Sequence[Unit], Threshold], DynamicExecutor]
    """Makes the executor of one request from the model's units and the settings."""
    sweep: tuple[Threshold, ...]
    """Settings that trace the rule's curve over compute shares, from much compute to little."""


def _thresholds(*values: float) -> tuple[Threshold, ...]:
    return tuple(Threshold(threshold=value) for value in values)


DYNAMIC_RULES: dict[str, DynamicRule] = {
    "first-block": DynamicRule(Threshold, FirstBlockCache, _thresholds(0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)),
    "teacache": DynamicRule(Threshold, TeaCache, _thresholds(0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)),
}
