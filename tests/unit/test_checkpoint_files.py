"""Weights under the names that the authors of DiT and U-ViT published them by, and files that are no such weights."""

import pickle
import struct
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import UVIT_SHAPE
from torch import Tensor
from unit_factories import Trap

from l2c_ray.errors import CheckpointError
from l2c_ray.models import public_dit, uvit
from l2c_ray.models.base import CacheableTransformer, compute_all

DIT_SHAPE = public_dit.DiTShape(depth=2, width=8, heads=2, patch_size=2, image_size=4, num_classes=3)

OF_A_LAYER = ("weight", "bias")


def layers(width: int, *stems: str) -> dict[str, tuple[int, ...]]:
    """Linear layers `stem out in`, the sizes in widths of the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stem, puts_out, takes_in in (line.split() for line in stems):
        shapes[f"{stem}.weight"] = (int(puts_out) * width, int(takes_in) * width)
        shapes[f"{stem}.bias"] = (int(puts_out) * width,)
    return shapes


def dit_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 4, 8),
        "x_embedder.proj.weight": (8, 4, 2, 2),
        "x_embedder.proj.bias": (8,),
        "t_embedder.mlp.0.weight": (8, 256),
        "t_embedder.mlp.0.bias": (8,),
        "y_embedder.embedding_table.weight": (4, 8),
    }
    shapes |= layers(8, "t_embedder.mlp.2 1 1", "final_layer.linear 4 1", "final_layer.adaLN_modulation.1 2 1")
    for block in ("blocks.0", "blocks.1"):
        shapes |= layers(8, f"{block}.attn.qkv 3 1", f"{block}.attn.proj 1 1", f"{block}.mlp.fc1 4 1")
        shapes |= layers(8, f"{block}.mlp.fc2 1 4", f"{block}.adaLN_modulation.1 6 1")
    return shapes


def uvit_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 6, 8),
        "patch_embed.proj.weight": (8, 1, 2, 2),
        "patch_embed.proj.bias": (8,),
        "label_emb.weight": (4, 8),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "decoder_pred.weight": (4, 8),
        "decoder_pred.bias": (4,),
    }
    for block in ("in_blocks.0", "mid_block", "out_blocks.0"):
        shapes |= {f"{block}.{norm}.{part}": (8,) for norm in ("norm1", "norm2") for part in OF_A_LAYER}
        shapes |= layers(8, f"{block}.attn.proj 1 1", f"{block}.mlp.fc1 4 1", f"{block}.mlp.fc2 1 4")
        shapes[f"{block}.attn.qkv.weight"] = (24, 8)
    return shapes | layers(8, "out_blocks.0.skip_linear 1 2")


@dataclass(frozen=True)
class Published:
    """A family's checkpoint files."""

    shape: Any
    load: Callable[[Any, str, Path], CacheableTransformer]
    tensors: dict[str, Tensor]
    sample: tuple[int, ...]
    a_linear_layer: str

    def model(self, path: Path) -> CacheableTransformer:
        return self.load(self.shape, "tiny", path)


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


DIT = Published(DIT_SHAPE, public_dit.load, drawn(dit_shapes()), (4, 4, 4), "blocks.1.attn.qkv.weight")
UVIT = Published(UVIT_SHAPE, uvit.load_public, drawn(uvit_shapes()), (1, 4, 4), "in_blocks.0.attn.qkv.weight")


@pytest.fixture(params=[DIT, UVIT], ids=["dit", "uvit"])
def published(request: pytest.FixtureRequest) -> Published:
    made: Published = request.param
    return made


def refusal(published: Published, path: Path, shape: Any = None) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        published.load(shape or published.shape, "tiny", path)
    assert str(path) in caught.value.subject
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def evaluated(model: CacheableTransformer, published: Published) -> Tensor:
    sample = torch.randn((2, *published.sample), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output: Tensor = model(sample, torch.tensor([999.0, 3.5]), torch.tensor([0, 3]), compute_all)
    return output


@pytest.mark.parametrize("wrapped", [lambda tensors: tensors, lambda tensors: {"ema": tensors, "args": Namespace(a=1)}])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_pickle_and_safetensors_of_the_same_tensors_are_the_same_model(
    published: Published, tmp_path: Path, suffix: str, wrapped: Callable[[Any], Any]
) -> None:
    pickled, safe = tmp_path / f"model{suffix}", tmp_path / "model.safetensors"
    torch.save(wrapped(published.tensors), pickled)
    save_file(published.tensors, safe)
    models = [published.model(path) for path in (pickled, safe)]
    outputs = [evaluated(model, published) for model in models]
    assert outputs[0].isfinite().all()
    assert torch.equal(outputs[0], outputs[1])
    assert [model.weights_sha256 for model in models] == [sha256(p.read_bytes()).hexdigest() for p in (pickled, safe)]


def test_every_tensor_makes_a_difference(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(published.tensors, path)
    original = evaluated(published.model(path), published)
    for name, tensor in published.tensors.items():
        save_file(published.tensors | {name: tensor + 0.5 * tensor.flip(0) + 0.1}, path)
        assert not torch.equal(evaluated(published.model(path), published), original), name


def test_missing_tensor_is_refused_naming_it(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for name in published.tensors:
        save_file({other: tensor for other, tensor in published.tensors.items() if other != name}, path)
        assert str(refusal(published, path)).startswith(f"{name} in {path}: is missing")


@pytest.mark.parametrize("shape", [(2,), (2, 8), (8, 24), (24, 8, 1), ()])
def test_tensor_of_another_shape_is_refused_naming_it(
    published: Published, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path, name = tmp_path / "model.safetensors", published.a_linear_layer
    save_file(published.tensors | {name: torch.zeros(shape)}, path)
    assert str(refusal(published, path)).startswith(f"{name} in {path}: has shape {list(shape)}, not [24, 8]")


@pytest.mark.parametrize("name", ["extra", "blocks.9.mlp.fc1.weight", "blocks", "in_blocks.0.other.weight", ""])
def test_unknown_tensor_is_refused_naming_it(published: Published, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pt"
    torch.save(published.tensors | {name: torch.zeros(1)}, path)
    assert refusal(published, path).subject == f"{name} in {path}"


def test_weights_of_another_depth_are_refused_naming_a_tensor(published: Published, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(published.tensors, path)
    assert "blocks." in refusal(published, path, replace(published.shape, depth=4)).subject
    shallower = replace(published.shape, depth=published.shape.depth // 2)
    assert "blocks." in refusal(published, path, shallower).subject


def test_weights_of_the_other_family_are_refused_naming_a_tensor(published: Published, tmp_path: Path) -> None:
    other = UVIT if published is DIT else DIT
    path = tmp_path / "model.safetensors"
    save_file(other.tensors, path)
    assert refusal(published, path).subject.endswith(f" in {path}")


@pytest.mark.parametrize("kept", [0, 4, 200, -8])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_file_is_refused_naming_it(published: Published, tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(published.tensors, path)
    else:
        save_file(published.tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    refusal(published, path)


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63, 2**64 - 1])
def test_safetensors_header_that_is_too_long_is_refused(published: Published, tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(published.tensors, path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "cannot be read" in str(refusal(published, path))


@pytest.mark.parametrize("plain", [False, True])
def test_pickle_that_would_run_something_is_refused_and_nothing_runs(
    published: Published, tmp_path: Path, plain: bool
) -> None:
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    content = published.tensors | {"trap": Trap(sprung)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    refusal(published, path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, torch.ones(2), {"ema": {"a": [torch.ones(1)]}}, {1: torch.ones(1)}]
)
def test_pickle_of_something_else_than_tensors_by_name_is_refused(
    published: Published, tmp_path: Path, content: Any
) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    refusal(published, path)


def test_missing_file_and_folder_in_place_of_one_are_refused(published: Published, tmp_path: Path) -> None:
    refusal(published, tmp_path / "none.pt")
    refusal(published, tmp_path)


def test_folder_of_another_dit_is_refused_naming_what_differs(tmp_path: Path) -> None:
    public_dit.build(DIT_SHAPE, "small").save(tmp_path)
    for field, value in {"depth": 3, "patch_size": 1, "num_classes": 5, "learn_sigma": False}.items():
        with pytest.raises(CheckpointError, match=f"is a DiT of {field} "):
            public_dit.load_as(replace(DIT_SHAPE, **{field: value}), "small", tmp_path)
    assert public_dit.load_as(DIT_SHAPE, "small", tmp_path).depth == 2
