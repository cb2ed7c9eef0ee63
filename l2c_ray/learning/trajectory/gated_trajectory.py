"""The sampler's trajectory under gates that are differentiable in what is computed and how the rest is forecast."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from l2c_ray.models.base import UnitHandler


class GatedTrajectory:
    """Unit handlers of one trajectory under a mask, which give what a `ScheduleExecutor` would.

    Every unit is computed, also one that is reused, because the gradient by its gate needs the fresh value. A reused
    unit is computed outside the graph: its gate is 0, so nothing would flow back through it.
    """

    def __init__(self, mask: Tensor, coefficients: Tensor, batch: int) -> None:
        """A trajectory before its first step.

        Args:
            mask: [steps - 1, units], true where a unit is computed; at step 0 all are.
            coefficients: forecast coefficients, [steps - 1, units].
            batch: rows of one evaluation of the model, both halves of guidance counted.
        """
        self.gates = mask.to(coefficients.dtype).unsqueeze(-1).repeat(1, 1, batch).requires_grad_()
        """[steps - 1, units, batch]: 1 where computed, else 0."""
        self.coefficients = coefficients.detach().unsqueeze(-1).repeat(1, 1, batch).requires_grad_()
        """[steps - 1, units, batch]."""
        self.difference_products = torch.zeros_like(coefficients)
        """[steps - 1, units]: product of fresh - last with last - one before, summed over the batch."""
        self.difference_squares = torch.zeros_like(coefficients)
        """[steps - 1, units]: square of last - one before, summed over the batch. The ratio of products to squares is
        the forecast coefficient with the least squared error."""
        self._mask: list[list[bool]] = mask.tolist()
        self._coefficients: list[list[float]] = coefficients.tolist()
        self._gate_rows = [row.unbind() for row in self.gates.unbind()]
        self._coefficient_rows = [row.unbind() for row in self.coefficients.unbind()]
        self._last: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}

    def __call__(self, step: int) -> UnitHandler:
        """The unit handler of `step`; steps must be asked for in order."""
        if step == 0:
            return self._compute_first
        # Copies: an evaluation whose graph is not kept runs once more, later, and needs the values of its own time.
        last, before = self._last.copy(), self._before.copy()
        return lambda unit, compute: self._gate(step - 1, unit, compute, last[unit], before.get(unit))

    def _compute_first(self, unit: int, compute: Callable[[], Tensor]) -> Tensor:
        fresh = compute()
        self._last.setdefault(unit, fresh)
        return fresh

    def _gate(self, row: int, unit: int, compute: Callable[[], Tensor], last: Tensor, before: Tensor | None) -> Tensor:
        computed = self._mask[row][unit]
        with torch.set_grad_enabled(computed):
            fresh = compute()
        # There is no difference before two values.
        earlier = last if before is None else before
        gate, coefficient = self._gate_rows[row][unit], self._coefficient_rows[row][unit]
        # Torch gives `apply` no types.
        gated: tuple[Tensor, Tensor, Tensor] = _Gate.apply(  # type: ignore[no-untyped-call]
            fresh, last, earlier, gate, coefficient, computed, self._coefficients[row][unit]
        )
        output, new_last, new_before = gated
        # An evaluation that runs once more has been recorded, and would leave its graph behind.
        if self._last[unit] is last:
            with torch.no_grad():
                difference, previous = fresh - last, last - earlier
                self.difference_products[row, unit] = torch.sum(difference * previous)
                self.difference_squares[row, unit] = torch.sum(previous * previous)
            self._last[unit] = new_last
            if computed or before is not None:
                self._before[unit] = new_before
        return output


class _Gate(torch.autograd.Function):
    """With gate g in {0, 1} and coefficient c: output = g fresh + (1 - g) (last + c (last - before)),
    next last = g fresh + (1 - g) last, next before = g last + (1 - g) before.

    One node in place of a dozen small ones. The gradient by an image's gate is the effect of the unit's choice on the
    loss, to the first order.
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
        difference, previous = fresh - last, last - before
        of_coefficient = _dot_each(of_output, previous)
        of_gate = _dot_each(of_output, difference) - ctx.coefficient * of_coefficient
        of_gate = of_gate + _dot_each(of_last, difference) + _dot_each(of_before, previous)
        constants = (None, None)
        if ctx.computed:
            return _sum(of_output, of_last), of_before, None, of_gate, None, *constants
        forecast = None if of_output is None else ctx.coefficient * of_output
        back = None if forecast is None else -forecast
        return None, _sum(of_output, forecast, of_last), _sum(back, of_before), of_gate, of_coefficient, *constants


def _dot_each(gradient: Tensor | None, tensor: Tensor) -> Tensor:
    """Inner products [batch] of the rows of two tensors; zeros without a gradient."""
    if gradient is None:
        return tensor.new_zeros(len(tensor))
    dots: Tensor = torch.linalg.vecdot(gradient.flatten(1), tensor.flatten(1))
    return dots


def _sum(*tensors: Tensor | None) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return sum(given[1:], given[0]) if given else None
