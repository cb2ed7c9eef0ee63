"""Writing a pretrained model in diffusers' folder layout, with a card of how it was made and how good it is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.errors import StorageError
from l2c_ray.models.layout import CONFIG, WEIGHTS
from l2c_ray.schedule import Guidance
from l2c_ray.storage.files import make_writable, read_text, write_text

if TYPE_CHECKING:
    from l2c_ray.learning.pretraining import Pretrained

JOB = "jobs/pretrain.py"
"""The job that writes model folders; the card of each names it."""

SAMPLES = 1000
STEPS = 20
GUIDANCE = Guidance(scale=1.5)

_SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")
_FILES = (Path("README.md"), WEIGHTS, CONFIG, _SCHEDULER_CONFIG)
_WRITTEN = {*_FILES, WEIGHTS.parent, _SCHEDULER_CONFIG.parent}

_FAMILIES = {"dit": ("DiT (arXiv 2212.09748)", "ddim"), "uvit": ("U-ViT (arXiv 2209.12152)", "dpm-solver-2")}
"""Name of each family with its source, and the sampler that its authors use."""

CARD = """\
# {name}

A class-conditional {kind} of {depth} layers and width {width} on scikit-learn's handwritten digits:
8x8 grey images, patches of {patch}x{patch}, noise prediction, label dropout for classifier-free guidance.

| | |
| --- | --- |
| command | `{command}` |
| seed | {seed} |
| steps | {steps} of batch {batch} |
| loss (mean squared error of the predicted noise, averaged over the last steps) | {loss:.4f} |
| samples that the digit classifier names rightly, {sampling} | {right} of {samples} |
| Fréchet distance of these samples to the real digits, classifier features | {frechet:.2f} |
| the same between two halves of the real digits | {floor:.2f} |
| weights | float16 safetensors in diffusers' layout, {megabytes:.1f} MB, Apache-2.0 |
| data | scikit-learn `load_digits` (UCI optical recognition of handwritten digits), 1,797 images |
"""


def require_replaceable(folder: Path) -> None:
    """Refuses a folder for a model that cannot be written, or where something would be lost.

    Only an empty folder, or one with nothing but files of this job, may be replaced.

    Raises:
        StorageError: names the folder and its foreign content.
    """
    folder = folder.resolve()
    make_writable(folder.parent)
    if not folder.exists():
        return
    foreign = _first_foreign(folder)
    if foreign:
        raise StorageError(str(foreign), f"was not written by {JOB}, which would remove it", "name another folder")


def _first_foreign(folder: Path) -> Path | None:
    """The first path in `folder` that this job did not write, or the folder itself; None if there is none."""
    if not folder.is_dir():
        return folder
    entries = 0
    for path in folder.rglob("*"):
        entries += 1
        if path.relative_to(folder) not in _WRITTEN:
            return path
    card = folder / "README.md"
    written_here = card.is_file() and JOB in read_text(card)
    return None if written_here or not entries else folder


def write_model_folder(folder: Path, pretrained: Pretrained, config: PretrainingConfig, command: str) -> str:
    """Writes `folder` (transformer/, scheduler/, README.md), replacing one that this job wrote; returns the card.

    The samples that are judged are made with the written weights, read back in float16.

    Raises:
        StorageError: the folder cannot be written, or holds something else.
    """
    folder = folder.resolve()
    require_replaceable(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
            new = Path(temporary, "new")
            pretrained.model.save(new)
            card = _card(new, config, pretrained.loss, command)
            readable = write_text(new / "README.md", card)
            # Safetensors makes files that only their owner may read.
            (new / WEIGHTS).chmod(readable.stat().st_mode)
            _flush(new)
            # Training took long enough for something else to appear here.
            require_replaceable(folder)
            exchange(folder, new, aside=Path(temporary, "old"))
    except (OSError, SafetensorError) as error:
        raise StorageError(str(folder), f"cannot be written ({error})", "free space or change the place") from error
    return card


def _flush(folder: Path) -> None:
    """Flushes everything in `folder` to disk, before its name says that it is whole."""
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def exchange(folder: Path, new: Path, aside: Path) -> None:
    """Puts `new` in the place of `folder`, which goes to `aside`; if that fails, `folder` stays."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _card(folder: Path, config: PretrainingConfig, loss: float, command: str) -> str:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.data import digits
    from l2c_ray.evaluation import classifier
    from l2c_ray.evaluation.quality import frechet_distance

    kind, sampler = _FAMILIES[config.family]
    pipeline = Pipeline.load(config.name, folder, sampler=sampler, steps=STEPS, guidance=GUIDANCE)
    model = pipeline.model
    labels = [index % model.num_classes for index in range(SAMPLES)]
    images = pipeline.generate(labels, seeds=range(SAMPLES))
    judge = classifier.load()
    real = digits.load()
    right = round(judge.accuracy(images, real.labels.new_tensor(labels)) * SAMPLES)
    return CARD.format(
        name=config.name,
        kind=kind,
        depth=model.depth,
        width=config.heads * config.head_dim,
        patch=config.patch_size,
        command=command,
        seed=config.seed,
        steps=config.steps,
        batch=config.batch_size,
        loss=loss,
        right=right,
        samples=SAMPLES,
        sampling=f"{STEPS} steps of {sampler} at guidance {GUIDANCE.scale}, seeds 0..{SAMPLES - 1}",
        frechet=frechet_distance(judge(images), judge(real.images)),
        floor=frechet_distance(judge(real.images[::2]), judge(real.images[1::2])),
        megabytes=(folder / WEIGHTS).stat().st_size / 1e6,
    )
