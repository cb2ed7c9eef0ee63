"""Pipelines: a model with its sampler, which makes images of labels and seeds for everything in this package."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.config.learn import ModelSection, SamplerSection
from l2c_ray.errors import SamplingError
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.labels import require_label
from l2c_ray.sampling.loop import UnitHandlers, baseline_handlers, noise_from_seeds, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Schedule


@dataclass(frozen=True)
class Pipeline:
    """A model with the sampler that it is run by.

    >>> pipeline = Pipeline.load("digits-dit")
    >>> pipeline.generate([3, 4], seeds=[7, 7]).shape
    torch.Size([2, 1, 8, 8])
    """

    model: CacheableTransformer
    solver: Solver
    guidance: Guidance

    @classmethod
    def load(
        cls,
        model: str,
        checkpoint: Path | str | None = None,
        *,
        sampler: str | None = None,
        steps: int = 20,
        guidance: Guidance | None = None,
        device: str = "cpu",
    ) -> Self:
        """The pipeline of a model in the zoo.

        Args:
            checkpoint: a folder in diffusers' layout or a file of the model's authors; the embedded weights if None.
            sampler: name of the solver; the one that the model's authors use if None.
            steps: model evaluations of a trajectory.
            guidance: classifier-free guidance; the authors' if None.

        Raises:
            ConfigError: there is no such model or solver, they do not fit together, or the weights are not embedded.
            CheckpointError: a file is missing or broken.
        """
        authors = zoo.entry_of(model, "model.name")
        loaded = zoo.load(model, Path(checkpoint) if checkpoint else None, device)
        return cls(loaded, make_solver(sampler or authors.sampler, steps, loaded), guidance or authors.guidance)

    @classmethod
    def from_config(cls, model: ModelSection, sampler: SamplerSection, device: str = "cpu") -> Self:
        """The pipeline that two sections of a config describe; raises as `load` does."""
        return cls.load(
            model.name,
            model.checkpoint,
            sampler=sampler.name,
            steps=sampler.steps,
            guidance=sampler.guidance,
            device=device,
        )

    @classmethod
    def for_schedule(cls, schedule: Schedule, checkpoint: Path | str | None = None) -> Self:
        """The pipeline that a schedule names; raises as `load` does. Its weights may be other than the schedule's."""
        sampler = schedule.sampler
        return cls.load(
            schedule.model.name, checkpoint, sampler=sampler.name, steps=sampler.steps, guidance=sampler.guidance
        )

    def with_steps(self, steps: int) -> Self:
        """The same model, solver and guidance with another number of model evaluations."""
        return replace(self, solver=make_solver(self.solver.name, steps, self.model))

    def require_made_for(self, schedule: Schedule) -> None:
        """Raises ScheduleError, which names the first field that differs, for the schedule of another pipeline."""
        schedule.require(self.model.identity(), self.solver.identity(self.guidance))

    def generate(
        self, labels: Sequence[int], seeds: Sequence[int], schedule: Schedule | None = None, batch_size: int = 64
    ) -> Tensor:
        """Images [len(labels), channels, height, width] in about [-1, 1]; image i depends on label i and seed i alone.

        Args:
            schedule: which units to skip; None computes everything.
            batch_size: images sampled at a time, which bounds the memory.

        Raises:
            ScheduleError: the schedule was made for another model or sampler.
            InvalidInputError: a label is not a class of the model.
            SamplingError: the images are not finite.
            ValueError: there are no labels, or not as many seeds.
        """
        if not labels or len(labels) != len(seeds):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds")
        for label in labels:
            require_label(label, self.model.num_classes, self.model.name)
        if schedule:
            self.require_made_for(schedule)
        batches = []
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            handlers = ScheduleExecutor(schedule.table) if schedule else baseline_handlers
            batches.append(self.generate_batch(labels[part], seeds[part], handlers))
        return torch.cat(batches)

    def generate_batch(self, labels: Sequence[int], seeds: Sequence[int], handlers: UnitHandlers) -> Tensor:
        """One batch of `generate` without its checks, with any way to run the units, for instance a dynamic executor.

        Raises:
            SamplingError: the images are not finite.
        """
        device = next(self.model.parameters()).device
        noise = noise_from_seeds(seeds, self.model.image_shape).to(device)
        wanted = torch.tensor(labels, device=device)
        images = sample_images(self.model, self.solver, noise, wanted, self.guidance, handlers).cpu()
        if not images.isfinite().all():
            raise SamplingError(
                self.model.name, "its images are not finite", "check its weights and the guidance scale"
            )
        return images


def to_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255 of the same shape; values outside are clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def encode_png(image: Tensor) -> bytes:
    """A grey or coloured image [1 or 3, height, width] in [-1, 1] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image).permute(1, 2, 0).squeeze(-1).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
