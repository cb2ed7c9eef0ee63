"""Confidence intervals of measurements on a sample of images: the percentile bootstrap (Efron, 1979), seeded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.data.seeding import draw_seed


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap, and the intervals that it makes."""

    resamples: int = 1000
    confidence: float = 0.95
    """The share of intervals that hold the true value, in (0, 1); half of the rest lies on either side."""
    seed: int = 0

    def interval(self, count: int, statistic: Callable[[Tensor], float]) -> Interval:
        """Interval of a statistic of `count` things, for instance images.

        Args:
            statistic: its value on the things with these numbers [count], some of which occur several times.
        """
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "bootstrap", count))
        drawn = [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(self.resamples)]
        outside = (1 - self.confidence) / 2
        ends = torch.tensor([outside, 1 - outside], dtype=torch.float64)
        low, high = torch.tensor(drawn, dtype=torch.float64).quantile(ends).tolist()
        return Interval(statistic(torch.arange(count)), low, high)
