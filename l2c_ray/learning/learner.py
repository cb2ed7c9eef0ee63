"""What every learner does on one worker; several workers differ in their data and noise and average their gradients."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.seeding import draw_seed
from l2c_ray.learning.progress import Progress
from l2c_ray.learning.state import pack, unpack
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

Average = Callable[[Tensor], Tensor]
"""The mean of a tensor over all workers; every worker gets the same."""


@dataclass(frozen=True)
class Lesson:
    """What one iteration saw on one worker."""

    error: Tensor
    loss: Tensor
    """Scalars, as in `Progress`."""
    parts: list[Tensor]
    """What the router learns from, gradients for instance; the mean over all workers is what counts."""


class Learner(ABC):
    """Gradient descent on a router alone; the model's weights are frozen.

    Iteration i's draws depend on (seed, i, rank) alone, so that a resumed run is the run that was never cut off.
    """

    router: nn.Module
    _optimizer: torch.optim.Optimizer | None = None
    """None where the router descends by itself."""

    def __init__(self, config: LearnConfig, model: CacheableTransformer, solver: Solver, rank: int) -> None:
        self._config = config
        self._model = model
        self._solver = solver
        self._rank = rank
        self._device = next(model.parameters()).device
        self.iteration = 0

    @property
    def done(self) -> bool:
        return self.iteration >= self._config.training.iterations

    def step(self, average: Average) -> Progress:
        """One iteration. A non-finite loss is reported, but changes nothing."""
        lesson = self._study()
        # One small message carries everything that the workers share.
        told = torch.stack([lesson.error, lesson.loss]).detach()
        shared = average(torch.cat([*(part.flatten() for part in lesson.parts), told]))
        if shared.isfinite().all():
            sizes = [part.numel() for part in lesson.parts]
            parts = shared[:-2].split(sizes)
            self._learn([mean.view_as(part) for mean, part in zip(parts, lesson.parts, strict=True)])
            self.iteration += 1
        mean_error, mean_loss = shared[-2:].tolist()
        return Progress(self.iteration, mean_error, mean_loss, self._mean_score())

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, the same on every worker."""
        return pack(self.router, self._optimizer) | {"iteration": torch.tensor(self.iteration)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        unpack(tensors, self.router, self._optimizer)
        self.iteration = int(tensors["iteration"])

    @abstractmethod
    def start_from(self, tensors: Mapping[str, Tensor]) -> bool:
        """Begins where another learner of this kind and model ended, by its state; False where that is no use."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The static graphs that have been learned so far, in the order in which they were."""

    def derived_tables(
        self, thresholds: Sequence[Sequence[float]], budgets: Sequence[float], share_of: Callable[[Table], float]
    ) -> list[tuple[dict[str, str | float], Table]]:
        """Static graphs by other thresholds, each with its `theta` for provenance; none where nothing is thresholded.

        Args:
            thresholds: one sequence per graph, with a threshold for each of its equally long phases.
            budgets: compute shares in (0, 1], each met by the threshold that computes the most within it, if one does.
            share_of: the compute share of a graph.
        """
        return []

    @abstractmethod
    def score_table(self) -> Tensor:
        """Scores of all steps [steps, units] in [0, 1] as they are now; 1 where a step always computes."""

    @abstractmethod
    def _study(self) -> Lesson:
        """Makes this iteration's lesson of this worker's share of the data."""

    @abstractmethod
    def _learn(self, parts: list[Tensor]) -> None:
        """From the lesson's parts, averaged over the workers."""

    @abstractmethod
    def _mean_score(self) -> float:
        """As in `Progress`."""

    def _generator(self, purpose: str, number: int, rank: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self._config.run.seed, purpose, number, rank))
