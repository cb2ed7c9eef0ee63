import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import UVIT_SHAPE, tiny_dit, tiny_uvit
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer, compute_all
from l2c_ray.models.layout import CONFIG, WEIGHTS
from l2c_ray.models.macs import count_macs
from l2c_ray.models.uvit import UViTShape

SCHEDULER = Path("scheduler", "scheduler_config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in diffusers' layout."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny_uvit().save(folder)
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def change_config(checkpoint: Path, **values: Any) -> None:
    path = checkpoint / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(checkpoint: Path, name: str = "digits-uvit") -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        zoo.load(name, checkpoint)
    assert str(checkpoint) in caught.value.subject
    assert "\n" not in str(caught.value)
    return caught.value


def evaluated(model: CacheableTransformer) -> Tensor:
    sample = torch.randn((2, *model.image_shape), generator=torch.Generator().manual_seed(1))
    output: Tensor = model(sample, torch.tensor([999.0, 3.5]), torch.tensor([0, 3]), compute_all)
    return output


def test_units_are_in_blocks_the_middle_block_and_out_blocks_in_order() -> None:
    model = tiny_uvit(UViTShape(4, 8, 2, image_size=4, channels=1, patch_size=2, num_classes=3))
    blocks = ["in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.0", "out_blocks.1"]
    assert [unit.name for unit in model.units] == [
        f"{block}.{kind}" for block in blocks for kind in ("attention", "mlp")
    ]
    assert model.identity().depth == 5


def test_folder_holds_the_model_that_was_saved(whole: Path) -> None:
    saved, loaded = tiny_uvit().half().float(), zoo.load("digits-uvit", whole)
    assert {name: tuple(tensor.shape) for name, tensor in loaded.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in saved.state_dict().items()
    }
    assert torch.equal(evaluated(loaded), evaluated(saved))
    assert torch.equal(loaded.scheduler.alphas_cumprod, saved.scheduler.alphas_cumprod)
    assert loaded.scheduler.config.timestep_spacing == saved.scheduler.config.timestep_spacing
    assert not loaded.training
    assert all(not parameter.requires_grad for parameter in loaded.parameters())


def test_null_label_is_the_one_after_the_classes() -> None:
    model = tiny_uvit()
    assert (model.num_classes, model.null_label, model.first_timestep) == (3, 3, 1)


def test_labels_are_dropped_in_training_alone() -> None:
    shape = UViTShape(2, 8, 2, image_size=4, channels=1, patch_size=2, num_classes=3, label_dropout=1.0)
    model = tiny_uvit(shape)
    sample, time = torch.ones(2, 1, 4, 4), torch.full((2,), 10.0)
    labels, null = torch.tensor([0, 2]), torch.tensor([3, 3])
    assert not torch.allclose(model(sample, time, labels, compute_all), model(sample, time, null, compute_all))
    model.train()
    assert torch.equal(model(sample, time, labels, compute_all), model(sample, time, null, compute_all))


@pytest.mark.parametrize(
    ("name", "blocks", "width", "millions"),
    [
        ("uvit-s-2-256", 13, 512, 44),
        ("uvit-m-2-256", 17, 768, 131),
        ("uvit-l-2-256", 21, 1024, 287),
        ("uvit-h-2-256", 29, 1152, 501),
    ],
)
def test_zoo_knows_the_authors_sizes(name: str, blocks: int, width: int, millions: int) -> None:
    model = zoo.skeleton(name)
    assert (model.depth, len(model.units), model.image_shape) == (blocks, 2 * blocks, (4, 32, 32))
    assert model.pos_embed.shape == (1, 258, width)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_cost_of_the_largest_is_the_papers() -> None:
    macs = count_macs(zoo.skeleton("uvit-h-2-256"))
    evaluation = macs.layers.shared + sum(macs.layers.units)
    assert 50 * evaluation / 1e12 == pytest.approx(6.44, rel=0.01)


def test_scheduler_is_read_from_the_folder(checkpoint: Path) -> None:
    path = checkpoint / SCHEDULER
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    assert "prediction_type is v_prediction" in str(refusal(checkpoint))


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS, SCHEDULER])
def test_missing_file_is_refused_naming_it(checkpoint: Path, missing: Path) -> None:
    (checkpoint / missing).unlink()
    assert missing.name in str(refusal(checkpoint))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", "\x00"])
def test_config_that_is_no_shape_is_refused(checkpoint: Path, content: str) -> None:
    (checkpoint / CONFIG).write_text(content)
    refusal(checkpoint)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"depth": 4}, "in_blocks.1."),
        ({"depth": 0}, "in_blocks.0."),
        ({"depth": "two"}, "str"),
        ({"width": 16}, "pos_embed"),
        ({"num_classes": 5}, "label_emb.weight"),
        ({"channels": 3}, "patch_embed.proj.weight"),
        ({"image_size": 8}, "pos_embed"),
        ({"heads": 3}, "3 equal heads"),
        ({"heads": 0}, "0 equal heads"),
        ({"heads": -1}, "-1 equal heads"),
        ({"patch_size": 0}, "patches of 0"),
        ({"patch_size": 3}, "patches of 3"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_config_of_another_model_is_refused_naming_what_differs(
    checkpoint: Path, values: dict[str, Any], named: str
) -> None:
    change_config(checkpoint, **values)
    assert named in str(refusal(checkpoint))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda tensors: tensors.pop("mid_block.attn.qkv.weight"), "mid_block.attn.qkv.weight"),
        (lambda tensors: tensors.pop("out_blocks.0.skip_linear.bias"), "out_blocks.0.skip_linear.bias"),
        (lambda tensors: tensors.update({"norm.weight": torch.ones(9)}), "norm.weight"),
        (lambda tensors: tensors.update({"norm.other": torch.ones(9)}), "norm.other"),
    ],
)
def test_weights_of_another_model_are_refused_naming_the_tensor(
    checkpoint: Path, edit: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    edit(tensors)
    save_file(tensors, checkpoint / WEIGHTS)
    assert refusal(checkpoint).subject == f"{named} in {checkpoint / WEIGHTS}"


def test_folder_of_the_other_family_is_refused(whole: Path, tmp_path: Path) -> None:
    refusal(whole, "digits-dit")
    dit = tmp_path / "dit"
    tiny_dit().save(dit)
    refusal(dit, "digits-uvit")


@pytest.mark.parametrize("kept", [0, 4, 300, -8])
def test_truncated_weights_are_refused_naming_the_file(checkpoint: Path, kept: int) -> None:
    path = checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(checkpoint).subject == str(path)


def test_shape_of_the_tiny_model_is_what_its_folder_says(whole: Path) -> None:
    assert UViTShape(**json.loads((whole / CONFIG).read_text())) == UVIT_SHAPE
