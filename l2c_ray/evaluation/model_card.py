"""Writes a pretrained model in diffusers' folder layout, with a card that says how it was made and how good it is."""

import shutil
import tempfile
from pathlib import Path

from diffusers import DDIMScheduler, DiTTransformer2DModel

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.data import digits
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.quality import frechet_distance
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.storage.files import make_writable, write_text

SAMPLES = 1000
STEPS = 20
GUIDANCE_SCALE = 1.5

CARD = """\
# {name}

A class-conditional DiT (arXiv 2212.09748) of {depth} layers and width {width} on scikit-learn's handwritten digits:
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


def write_model_folder(
    folder: Path,
    model: DiTTransformer2DModel,
    scheduler: DDIMScheduler,
    config: PretrainingConfig,
    loss: float,
    command: str,
) -> str:
    """Writes `folder` (transformer/, scheduler/, README.md), replacing one that is there; returns the card.

    What is judged is what was written: the weights are read back in float16 before the samples are made.
    """
    make_writable(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "model"
        model.half().save_pretrained(new / "transformer")
        scheduler.save_pretrained(new / "scheduler")
        card = _card(new, config, loss, command)
        write_text(new / "README.md", card)
        new.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return card


def _card(folder: Path, config: PretrainingConfig, loss: float, command: str) -> str:
    model = zoo.load(config.name, folder)
    pipeline = Pipeline(model, make_solver("ddim", STEPS, model.scheduler), GUIDANCE_SCALE)
    labels = [index % model.num_classes for index in range(SAMPLES)]
    images = pipeline.generate(labels, seeds=range(SAMPLES))
    judge = classifier.load()
    real = digits.load()
    right = round(judge.accuracy(images, real.labels.new_tensor(labels)) * SAMPLES)
    return CARD.format(
        name=config.name,
        depth=config.depth,
        width=config.heads * config.head_dim,
        patch=config.patch_size,
        command=command,
        seed=config.seed,
        steps=config.steps,
        batch=config.batch_size,
        loss=loss,
        right=right,
        samples=SAMPLES,
        sampling=f"{STEPS} DDIM steps at guidance {GUIDANCE_SCALE}, seeds 0..{SAMPLES - 1}",
        frechet=frechet_distance(images, real.images),
        floor=frechet_distance(real.images[::2], real.images[1::2]),
        megabytes=(folder / zoo.WEIGHTS).stat().st_size / 1e6,
    )
