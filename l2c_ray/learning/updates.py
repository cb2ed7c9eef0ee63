"""Updates of a router: computed by each worker, averaged over all workers in one message, then applied by each."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

Average = Callable[[Tensor], Tensor]
"""The mean of a tensor over all workers, the same on every worker."""


@dataclass(frozen=True)
class Update:
    """Tensors that one iteration computes; subclasses add those that the router learns from."""

    error: Tensor
    loss: Tensor
    """Scalars, as in `Progress`."""

    @property
    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in vars(self).values())

    def averaged(self, average: Average) -> Self:
        """The mean over all workers, which share one flat tensor: the fields of the subclass, then error and loss."""
        error, loss, *learned = fields(self)
        tensors = {field.name: getattr(self, field.name).detach() for field in (*learned, error, loss)}
        message = average(torch.cat([tensor.flatten() for tensor in tensors.values()]))
        parts = message.split([tensor.numel() for tensor in tensors.values()])
        means = {name: part.view_as(tensors[name]) for name, part in zip(tensors, parts, strict=True)}
        return replace(self, **means)


U = TypeVar("U", bound=Update)


class UpdateRule(ABC, Generic[U]):
    """One way to update a router."""

    @abstractmethod
    def compute_update(self) -> U:
        """The update that follows from this worker's share of the data or noise."""

    @abstractmethod
    def apply_update(self, update: U) -> None:
        """Changes the router by the mean of all workers' updates."""

    def update(self, average: Average) -> U:
        """The mean of all workers' updates, which has been applied if it is finite."""
        update = self.compute_update().averaged(average)
        if update.is_finite:
            self.apply_update(update)
        return update
