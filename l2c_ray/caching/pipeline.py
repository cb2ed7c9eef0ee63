"""From labels and seeds to images: the one path that the CLI, the registry, serving and evaluation all take."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.errors import InvalidInputError, SamplingError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.loop import UnitHandlers, full_run, noise_from_seeds, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Guidance, Schedule


@dataclass(frozen=True)
class Pipeline:
    """A model with the sampler that it is run by."""

    model: CacheableTransformer
    solver: Solver
    guidance: Guidance

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
        classes = self.model.num_classes
        for label in labels:
            if not 0 <= label < classes:
                raise InvalidInputError(
                    "label", f"{label} is not a class of {self.model.name}", f"take 0..{classes - 1}"
                )
        if schedule:
            schedule.require(self.model.identity(), self.solver.identity(self.guidance))
        batches = []
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            handlers = ScheduleExecutor(schedule.table) if schedule else full_run
            batches.append(self.generate_batch(labels[part], seeds[part], handlers))
        return torch.cat(batches)

    def generate_batch(self, labels: Sequence[int], seeds: Sequence[int], handlers: UnitHandlers) -> Tensor:
        """As `generate`, unchecked: one batch with whatever runs the units, for instance a dynamic executor.

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
    """From [-1, 1] to 0..255 as uint8, values outside clipped; the shape stays."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def encode_png(image: Tensor) -> bytes:
    """A grey or coloured image [1 or 3, height, width] in [-1, 1] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image).permute(1, 2, 0).squeeze(-1).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
