"""A trajectory in which some units are reused, and what every choice in it is worth."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l2c_ray.models.base import UnitHandler


class Student:
    """Unit handlers of one trajectory under a mask, as an executor would run it, differentiable in what is chosen.

    Every unit is computed, also one that is reused, because what it would give decides whether it is worth it. A
    reused unit is computed outside the graph: its gate is 0, so nothing would flow back through it.
    """

    def __init__(self, mask: Tensor, coefficients: Tensor, evaluations: int) -> None:
        """A trajectory that has not begun.

        Args:
            mask: [steps - 1, units], true where a unit is computed; at step 0 all are.
            coefficients: of its forecasts, of that shape.
            evaluations: images in one evaluation of the model, both halves of guidance counted.
        """
        self.gates = mask.to(coefficients.dtype).unsqueeze(-1).repeat(1, 1, evaluations).requires_grad_()
        """[steps - 1, units, evaluations]: 1 where computed, for each image on its own; its gradients are effects."""
        self.coefficients = coefficients.detach().unsqueeze(-1).repeat(1, 1, evaluations).requires_grad_()
        """Of that shape too."""
        self.changes = torch.zeros_like(coefficients)
        """[steps - 1, units]: product of the change since the last value with the change before it, over the batch."""
        self.slopes = torch.zeros_like(self.changes)
        """[steps - 1, units]: square of the latter. Their ratio is the coefficient that forecasts the unit best."""
        self._mask: list[list[bool]] = mask.tolist()
        self._gates = [row.unbind() for row in self.gates.unbind()]
        self._by_image = [row.unbind() for row in self.coefficients.unbind()]
        self._coefficients: list[list[float]] = coefficients.tolist()
        self._last: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}

    def __call__(self, step: int) -> UnitHandler:
        """The unit handler of `step`; steps must be asked for in order."""
        if step == 0:
            return self._keep
        # As they are when the step begins: where its graph is not kept it is run once more.
        last, before = self._last.copy(), self._before.copy()
        return lambda unit, compute: self._choose(step - 1, unit, compute, last[unit], before.get(unit))

    def _keep(self, unit: int, compute: Callable[[], Tensor]) -> Tensor:
        fresh = compute()
        self._last.setdefault(unit, fresh)
        return fresh

    def _choose(
        self, row: int, unit: int, compute: Callable[[], Tensor], last: Tensor, before: Tensor | None
    ) -> Tensor:
        computed = self._mask[row][unit]
        with torch.set_grad_enabled(computed):
            fresh = compute()
        # There is no difference before two values.
        earlier = last if before is None else before
        gate, coefficient = self._gates[row][unit], self._by_image[row][unit]
        # Torch gives `apply` no types.
        chosen: tuple[Tensor, Tensor, Tensor] = _Choice.apply(  # type: ignore[no-untyped-call]
            fresh, last, earlier, gate, coefficient, computed, self._coefficients[row][unit]
        )
        output, new_last, new_before = chosen
        # A step that is run once more has been noted, and would leave its graph behind.
        if self._last[unit] is last:
            with torch.no_grad():
                change, slope = fresh - last, last - earlier
                self.changes[row, unit] = torch.sum(change * slope)
                self.slopes[row, unit] = torch.sum(slope * slope)
            self._last[unit] = new_last
            if computed or before is not None:
                self._before[unit] = new_before
        return output


class _Choice(torch.autograd.Function):
    """With gate g: output = g fresh + (1 - g) forecast, the next last = g fresh + (1 - g) last, the next before alike.

    For gates that are 0 or 1. One node in place of a dozen small ones. The gradient of each image's gate is what its
    unit's choice does to the loss, to the first order.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fresh: Tensor,
        last: Tensor,
        before: Tensor,
        gate: Tensor,
        coefficient: Tensor,
        computed: bool,
        value: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.computed, ctx.coefficient = computed, value
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(fresh, last, before)
        if computed:
            return fresh.view_as(fresh), fresh.view_as(fresh), last.view_as(last)
        return torch.add(last, last - before, alpha=ctx.coefficient), last.view_as(last), before.view_as(before)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_output, of_last, of_before = gradients
        fresh, last, before = ctx.saved_tensors
        change, slope = fresh - last, last - before
        by_slope = _dot_each(of_output, slope)
        of_gate = _dot_each(of_output, change) - ctx.coefficient * by_slope
        of_gate = of_gate + _dot_each(of_last, change) + _dot_each(of_before, slope)
        constants = (None, None)
        if ctx.computed:
            return _sum(of_output, of_last), of_before, None, of_gate, None, *constants
        forecast = None if of_output is None else ctx.coefficient * of_output
        back = None if forecast is None else -forecast
        return None, _sum(of_output, forecast, of_last), _sum(back, of_before), of_gate, by_slope, *constants


def _dot_each(gradient: Tensor | None, tensor: Tensor) -> Tensor:
    """The products of each image [batch]."""
    if gradient is None:
        return tensor.new_zeros(len(tensor))
    dots: Tensor = torch.linalg.vecdot(gradient.flatten(1), tensor.flatten(1))
    return dots


def _sum(*tensors: Tensor | None) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return sum(given[1:], given[0]) if given else None
