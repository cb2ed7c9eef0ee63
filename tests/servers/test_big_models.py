"""Models of the paper's size, from files under their authors' tensor names, in a process whose memory is measured."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

MOST_RESIDENT = 12e9
AVAILABLE = 14e9

DEPTH, WIDTH, LATENT, PATCH, CLASSES, FREQUENCIES = 28, 1152, 32, 2, 1000, 256
PATCHES = (LATENT // PATCH) ** 2

Shapes = Iterator[tuple[str, tuple[int, ...]]]

SAMPLE = """
import json, resource, sys
from pathlib import Path
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Provenance, Table

name, checkpoint = sys.argv[1:]
entry, skeleton = zoo.entry_of(name, "name"), zoo.skeleton(name)
solver = make_solver(entry.sampler, 2, skeleton)
units = len(skeleton.units)
mlps_reused = Table.of(((1,) * units, (1, 0) * (units // 2)))
provenance = Provenance(policy="test", settings={})
schedule = make_schedule(Pipeline(skeleton, solver, entry.guidance), mlps_reused, provenance)
model = zoo.load(name, Path(checkpoint))
images = Pipeline(model, solver, entry.guidance).generate([3], [0], schedule)
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parameters = sum(parameter.numel() for parameter in model.parameters())
print(json.dumps([list(images.shape), images.isfinite().all().item(), parameters, kilobytes * 1024]))
"""

pytestmark = pytest.mark.skipif(
    psutil.virtual_memory().available < AVAILABLE, reason="less than 14 GB of memory are available"
)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def patch_convolution(name: str) -> Shapes:
    yield f"{name}.weight", (WIDTH, 4, PATCH, PATCH)
    yield f"{name}.bias", (WIDTH,)


def dit_xl() -> Shapes:
    """DiT-XL/2 as facebookresearch/DiT names it."""
    yield "pos_embed", (1, PATCHES, WIDTH)
    yield from patch_convolution("x_embedder.proj")
    yield from linear("t_embedder.mlp.0", FREQUENCIES, WIDTH)
    yield from linear("t_embedder.mlp.2", WIDTH, WIDTH)
    yield "y_embedder.embedding_table.weight", (CLASSES + 1, WIDTH)
    for index in range(DEPTH):
        block = f"blocks.{index}"
        yield from linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
        yield from linear(f"{block}.attn.proj", WIDTH, WIDTH)
        yield from linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH)
        yield from linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
        yield from linear(f"{block}.adaLN_modulation.1", WIDTH, 6 * WIDTH)
    yield from linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)
    yield from linear("final_layer.linear", WIDTH, PATCH * PATCH * 8)


def uvit_h() -> Shapes:
    """U-ViT-H/2 as baofff/U-ViT names it."""
    half = DEPTH // 2
    yield "pos_embed", (1, 2 + PATCHES, WIDTH)
    yield from patch_convolution("patch_embed.proj")
    yield "label_emb.weight", (CLASSES + 1, WIDTH)
    in_blocks, out_blocks = ([f"{kind}_blocks.{index}" for index in range(half)] for kind in ("in", "out"))
    for block in (*in_blocks, "mid_block", *out_blocks):
        for norm in ("norm1", "norm2"):
            yield f"{block}.{norm}.weight", (WIDTH,)
            yield f"{block}.{norm}.bias", (WIDTH,)
        yield f"{block}.attn.qkv.weight", (3 * WIDTH, WIDTH)
        yield from linear(f"{block}.attn.proj", WIDTH, WIDTH)
        yield from linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH)
        yield from linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
    for block in out_blocks:
        yield from linear(f"{block}.skip_linear", 2 * WIDTH, WIDTH)
    yield "norm.weight", (WIDTH,)
    yield "norm.bias", (WIDTH,)
    yield from linear("decoder_pred", WIDTH, PATCH * PATCH * 4)


def random_tensors(shapes: Shapes) -> dict[str, Tensor]:
    """In half precision, which halves the files."""
    torch.manual_seed(0)
    pool = torch.empty(6 * WIDTH * WIDTH).uniform_(-0.03, 0.03).half()
    return {name: pool[: torch.Size(shape).numel()].reshape(shape).clone() for name, shape in shapes}


def as_training_checkpoint(tensors: dict[str, Tensor], file: Path) -> None:
    torch.save({"ema": tensors, "args": None}, file)


@pytest.mark.parametrize(
    ("name", "shapes", "parameters", "file", "write"),
    [
        ("dit-xl-2-256", dit_xl, 675e6, "DiT-XL-2-256x256.pt", as_training_checkpoint),
        ("uvit-h-2-256", uvit_h, 501e6, "uvit.safetensors", save_file),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_big_model_samples_from_its_authors_naming_in_little_memory(
    name: str, shapes: Callable[[], Shapes], parameters: float, file: str, write: Callable[..., None], tmp_path: Path
) -> None:
    checkpoint = tmp_path / file
    write(random_tensors(shapes()), checkpoint)
    command = [sys.executable, "-c", SAMPLE, name, str(checkpoint)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    checkpoint.unlink()
    assert finished.returncode == 0, finished.stderr
    shape, finite, counted, resident = json.loads(finished.stdout)
    print(f"\n{name} from {file}: {counted / 1e6:.0f} million parameters, at most {resident / 1e9:.1f} GB resident")
    assert shape == [1, 4, LATENT, LATENT]
    assert finite
    assert counted == pytest.approx(parameters, rel=0.01)
    assert resident < MOST_RESIDENT
