import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from unit_factories import Trap, tiny_dit

from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer, compute_all
from l2c_ray.models.dit import DiT, transformer_class
from l2c_ray.models.layout import CONFIG, WEIGHTS

SCHEDULER = Path("scheduler", "scheduler_config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in diffusers' layout."""
    folder = tmp_path_factory.mktemp("whole")
    model = tiny_dit()
    model.transformer.save_pretrained(folder / "transformer")
    model.scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def change_config(checkpoint: Path, file: Path = CONFIG, **values: Any) -> None:
    path = checkpoint / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(checkpoint: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        zoo.load("digits-dit", checkpoint)
    assert str(checkpoint) in caught.value.subject
    assert "\n" not in str(caught.value)
    return caught.value


def assert_equals_diffusers(model: DiT) -> None:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(3, *model.image_shape, generator=generator)
    times = torch.tensor([999.0, 421.0, 0.0])
    labels = torch.tensor([0, 2, model.null_label])
    with torch.no_grad():
        theirs = model.transformer(sample, timestep=times, class_labels=labels).sample
        ours = model(sample, times, labels, compute_all)
    # A modulation made in parts may round otherwise than in one product, on some CPUs by a last bit.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "out_channels"), [(1, None), (4, 8), (3, 3)])
def test_full_evaluation_is_that_of_diffusers_but_for_rounding(channels: int, out_channels: int | None) -> None:
    assert_equals_diffusers(tiny_dit(channels=channels, out_channels=out_channels))


def test_embedded_model_evaluates_as_diffusers_but_for_rounding(
    digits_model: CacheableTransformer,
) -> None:
    assert isinstance(digits_model, DiT)
    assert_equals_diffusers(digits_model)


def test_units_are_attention_and_mlp_of_each_block_in_order() -> None:
    model = tiny_dit(depth=2)
    assert [unit.name for unit in model.units] == [
        "blocks.0.attention",
        "blocks.0.mlp",
        "blocks.1.attention",
        "blocks.1.mlp",
    ]


def test_every_unit_is_asked_for_once_and_in_order() -> None:
    model = tiny_dit(depth=3)
    asked: list[int] = []

    def handle(unit: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        asked.append(unit)
        return compute()

    model(torch.zeros(1, *model.image_shape), torch.zeros(1), torch.zeros(1).long(), handle)
    assert asked == list(range(6))


def test_branch_decides_the_output_before_its_gate() -> None:
    model = tiny_dit(depth=1)
    sample, time, label = torch.ones(1, *model.image_shape), torch.zeros(1), torch.zeros(1).long()
    block = model.transformer.transformer_blocks[0]
    with torch.no_grad():
        replaced = model(sample, time, label, lambda unit, compute: torch.full_like(compute(), unit + 1))
        block.attn1.register_forward_hook(lambda _, __, output: torch.full_like(output, 1))
        block.ff.register_forward_hook(lambda _, __, output: torch.full_like(output, 2))
        theirs = model.transformer(sample, timestep=time, class_labels=label).sample
        full = tiny_dit(depth=1)(sample, time, label, compute_all)
    assert torch.equal(replaced, theirs)
    assert not torch.allclose(replaced, full)


def test_identity_names_the_model_and_its_weights(whole: Path) -> None:
    identity = zoo.load("digits-dit", whole).identity()
    assert (identity.name, identity.family, identity.depth) == ("digits-dit", "dit", 2)
    assert identity.units == tuple(unit.name for unit in tiny_dit(depth=2).units)
    assert identity.weights_sha256 == hashlib.sha256((whole / WEIGHTS).read_bytes()).hexdigest()


def test_embedded_model_draws_ten_digits_of_8x8(digits_model: CacheableTransformer) -> None:
    assert digits_model.image_shape == (1, 8, 8)
    assert (digits_model.num_classes, digits_model.null_label) == (10, 10)


def test_loaded_model_is_frozen_in_evaluation_mode_and_float32(checkpoint: Path) -> None:
    weights = load_file(checkpoint / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in weights.items()}, checkpoint / WEIGHTS)
    model = zoo.load("digits-dit", checkpoint)
    assert not model.training
    assert all(not parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_of_a_folder_are_used(whole: Path) -> None:
    loaded = zoo.load("digits-dit", whole).state_dict()
    assert loaded.keys() == tiny_dit().state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in tiny_dit().state_dict().items())


def test_unknown_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="digits-dit") as caught:
        zoo.load("digits")
    assert caught.value.subject == "model.name"


def test_missing_weights_are_refused_naming_the_file(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).unlink()
    assert refusal(checkpoint).subject == str(checkpoint / WEIGHTS)


def test_class_is_the_one_that_diffusers_package_has() -> None:
    assert transformer_class() is DiTTransformer2DModel


def test_missing_folder_is_refused_naming_the_file(tmp_path: Path) -> None:
    assert str(WEIGHTS) in refusal(tmp_path / "none").subject


@pytest.mark.parametrize("kept", [0, 4, 2000, -8])
def test_truncated_weights_are_refused_naming_the_file(checkpoint: Path, kept: int) -> None:
    path = checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in str(refusal(checkpoint))


def test_pickle_in_place_of_weights_is_refused_naming_the_file(checkpoint: Path) -> None:
    torch.save({"weights": torch.ones(2)}, checkpoint / WEIGHTS)
    assert str(WEIGHTS) in str(refusal(checkpoint))


@pytest.mark.parametrize("missing", [CONFIG, SCHEDULER])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_missing_or_broken_config_is_refused_naming_it(checkpoint: Path, missing: Path, content: str | None) -> None:
    if content is None:
        (checkpoint / missing).unlink()
    else:
        (checkpoint / missing).write_text(content)
    assert missing.name in str(refusal(checkpoint))


def test_more_layers_than_the_weights_have_are_refused_naming_a_tensor(checkpoint: Path) -> None:
    change_config(checkpoint, num_layers=3)
    assert "transformer_blocks.2." in str(refusal(checkpoint))


def test_fewer_layers_than_the_weights_have_are_refused_naming_a_tensor(checkpoint: Path) -> None:
    change_config(checkpoint, num_layers=1)
    assert "transformer_blocks.1." in str(refusal(checkpoint))


def test_another_width_than_the_weights_have_is_refused_naming_a_tensor(checkpoint: Path) -> None:
    change_config(checkpoint, attention_head_dim=6)
    assert "size mismatch for pos_embed.proj" in str(refusal(checkpoint))


@pytest.mark.parametrize(
    "values",
    [{"num_layers": "two"}, {"sample_size": None}, {"activation_fn": "nonsense"}, {"patch_size": 0}],
    ids=lambda values: next(iter(values)),
)
def test_config_that_makes_no_model_is_refused(checkpoint: Path, values: dict[str, Any]) -> None:
    change_config(checkpoint, **values)
    refusal(checkpoint)


@pytest.mark.parametrize(
    "value",
    [
        {"prediction_type": "v_prediction"},
        {"clip_sample": True},
        {"thresholding": True},
        {"set_alpha_to_one": False},
        {"rescale_betas_zero_snr": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_scheduler_that_samples_otherwise_than_the_solvers_is_refused(checkpoint: Path, value: dict[str, Any]) -> None:
    change_config(checkpoint, SCHEDULER, **value)
    ((key, setting),) = value.items()
    assert f"{key} is {setting}" in str(refusal(checkpoint))


def test_scheduler_that_clips_because_nothing_else_is_said_is_refused(checkpoint: Path) -> None:
    (checkpoint / SCHEDULER).write_text('{"_class_name": "DDIMScheduler"}')
    assert "clip_sample is True" in str(refusal(checkpoint))


def test_checkpoint_of_an_impossible_name_is_refused(tmp_path: Path) -> None:
    assert "too long" in str(refusal(tmp_path / ("a" * 300)))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model-00001-of-00001.bin"])
@pytest.mark.parametrize("index", [None, "diffusion_pytorch_model.safetensors.index.json"])
@pytest.mark.parametrize("beside", [False, True])
def test_no_pickle_is_read_whatever_else_is_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, index: str | None, beside: bool
) -> None:
    folder, sprung = (checkpoint / WEIGHTS).parent, tmp_path / "sprung"
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    tensors = dict.fromkeys(load_file(checkpoint / WEIGHTS), name)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": tensors}))
    if not beside:
        (checkpoint / WEIGHTS).unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is read"))
    if beside and not index:
        assert zoo.load("digits-dit", checkpoint).depth == 2
    else:
        assert (index if beside and index else WEIGHTS.name) in refusal(checkpoint).subject
    assert not sprung.exists()
