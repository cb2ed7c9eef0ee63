import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2c_ray.cli.pretraining import pretrain_and_report
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.data import digits
from l2c_ray.data.images import LabelledImages
from l2c_ray.errors import CheckpointError, ConfigError, LearningError, StorageError
from l2c_ray.evaluation import classifier, model_card
from l2c_ray.learning.pretraining import Pretrainer, pretrain
from l2c_ray.models import zoo
from l2c_ray.models.layout import WEIGHTS

TINY = """\
name = "digits-dit"
depth = 1
heads = 1
head_dim = 4
patch_size = 4
steps = 3
batch_size = 2
learning_rate = 1e-3
ema_decay = 0.9
checkpoint_every = 1
"""
JOB = Path(__file__).parents[2] / "jobs" / "pretrain.py"
CHECKPOINT = Path("home", "pretraining", "digits-dit", "checkpoint.safetensors")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_card, "SAMPLES", 100)


def stopped_after(steps: int, config: PretrainingConfig) -> None:
    def stop(done: int, loss: float) -> None:
        if done > steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config, stop)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_trained_model_is_written_with_its_card_and_can_be_loaded(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model"
    pretrain_and_report(tiny, ["learning_rate=2e-3", "seed = 5"], out)
    assert zoo.load("digits-dit", out).depth == 1
    card = (out / "README.md").read_text()
    assert card in capsys.readouterr().out
    assert f"--config {tiny} --set learning_rate=2e-3 --set 'seed = 5' --out {out}`" in card
    assert "| seed | 5 |" in card
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert len({path.stat().st_mode for path in out.rglob("*") if path.is_file()}) == 1


def test_run_that_was_cut_off_and_resumed_is_the_run_that_was_not(tiny: Path, tmp_path: Path) -> None:
    config = PretrainingConfig.read(tiny)
    whole = pretrain(config, lambda *_: None)
    (tmp_path / CHECKPOINT).unlink()
    stopped_after(2, config)
    steps: list[int] = []
    resumed = pretrain(config, lambda done, _: steps.append(done))
    assert steps == [3]
    assert resumed.loss == whole.loss
    weights = resumed.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize(
    ("override", "key"), [("head_dim=8", "head_dim"), ("seed=1", "seed"), ("learning_rate=1e-2", "learning_rate")]
)
def test_checkpoint_of_another_config_is_refused_naming_what_differs(
    tiny: Path, tmp_path: Path, override: str, key: str
) -> None:
    stopped_after(1, PretrainingConfig.read(tiny))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConfigError) as caught:
        pretrain_and_report(tiny, [override], tmp_path / "model")
    assert caught.value.subject == key
    assert str(tmp_path / CHECKPOINT) in str(caught.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not (tmp_path / "model").exists()


def test_how_often_checkpoints_are_written_may_change(tiny: Path) -> None:
    stopped_after(1, PretrainingConfig.read(tiny))
    steps: list[int] = []
    pretrain(PretrainingConfig.read(tiny, ["checkpoint_every=2"]), lambda done, _: steps.append(done))
    assert steps == [2, 3]


@pytest.mark.parametrize(
    "lost", ["config", "step", "ema.transformer.proj_out_1.bias", "module.transformer.proj_out_1.bias"]
)
def test_checkpoint_that_lacks_a_tensor_is_refused_naming_the_file(tiny: Path, tmp_path: Path, lost: str) -> None:
    config = PretrainingConfig.read(tiny)
    stopped_after(1, config)
    tensors = load_file(tmp_path / CHECKPOINT)
    del tensors[lost]
    save_file(tensors, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="checkpoint.safetensors") as caught:
        pretrain(config, lambda *_: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("learning_rate", [1e10, 1e30])
def test_training_that_diverges_is_a_typed_error_and_writes_nothing(
    tiny: Path, tmp_path: Path, learning_rate: float
) -> None:
    with pytest.raises(LearningError, match="not finite at step") as caught:
        pretrain_and_report(tiny, [f"learning_rate={learning_rate}"], tmp_path / "model")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / CHECKPOINT).exists()


def test_loss_that_is_not_a_number_stops_training(tiny: Path) -> None:
    data = digits.load()
    trainer = Pretrainer(PretrainingConfig.read(tiny), LabelledImages(data.images * torch.nan, data.labels))
    with pytest.raises(LearningError, match="loss"):
        trainer.step()


@pytest.mark.parametrize(
    ("override", "subject"),
    [("name=mine", "name"), ("patch_size=3", "patch_size"), ("patch_size=16", "patch_size")],
)
def test_model_that_cannot_be_made_is_refused_before_any_step(
    tiny: Path, tmp_path: Path, override: str, subject: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain_and_report(tiny, [override, "steps=1000000"], tmp_path / "model")
    assert caught.value.subject == subject


@pytest.mark.parametrize("stray", ["thesis.txt", "transformer/thesis.txt", "notes/thesis.txt"])
@pytest.mark.parametrize("trained_before", [False, True])
def test_folder_with_anything_of_somebody_else_is_refused_before_any_step(
    tiny: Path, tmp_path: Path, stray: str, trained_before: bool
) -> None:
    out = tmp_path / "model"
    if trained_before:
        pretrain_and_report(tiny, [], out)
    (out / stray).parent.mkdir(parents=True, exist_ok=True)
    (out / stray).write_text("years of work")
    before = contents(out)
    with pytest.raises(StorageError, match=str(out)):
        pretrain_and_report(tiny, ["steps=1000000"], out)
    assert contents(out) == before


def test_model_of_another_origin_is_refused(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    pretrain_and_report(tiny, [], out)
    (out / "README.md").write_text("# Somebody's model\n")
    before = contents(out)
    with pytest.raises(StorageError, match=str(out)):
        pretrain_and_report(tiny, ["steps=1000000"], out)
    assert contents(out) == before


def test_file_in_the_place_of_the_folder_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=str(tiny)):
        pretrain_and_report(tiny, ["steps=1000000"], tiny)
    assert tiny.read_text() == TINY


def test_place_that_cannot_be_written_is_refused_before_any_step(tiny: Path) -> None:
    with pytest.raises(StorageError, match=str(tiny)):
        pretrain_and_report(tiny, ["steps=1000000"], tiny / "model")


@pytest.mark.parametrize("link", [False, True])
def test_model_of_this_job_is_replaced(tiny: Path, tmp_path: Path, link: bool) -> None:
    real = tmp_path / "real"
    out = tmp_path / "link" if link else real
    if link:
        out.symlink_to(real)
    pretrain_and_report(tiny, [], out)
    first = contents(real)
    (tmp_path / CHECKPOINT).unlink()
    pretrain_and_report(tiny, ["seed=1"], out)
    assert contents(real).keys() == first.keys()
    assert contents(real)[str(WEIGHTS)] != first[str(WEIGHTS)]
    assert out.is_symlink() == link
    assert not list(tmp_path.glob(".writing-*"))


def test_model_that_is_there_stays_when_the_new_one_cannot_be_judged(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    pretrain_and_report(tiny, [], out)
    before = contents(out)
    (tmp_path / CHECKPOINT).unlink()
    monkeypatch.setattr(classifier, "WEIGHTS", tmp_path / "none")
    with pytest.raises(CheckpointError):
        pretrain_and_report(tiny, ["seed=1"], out)
    assert contents(out) == before
    assert not list(tmp_path.glob(".writing-*"))


def test_folder_stays_when_nothing_can_take_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("kept")
    with pytest.raises(FileNotFoundError):
        model_card.exchange(folder, tmp_path / "gone", aside=tmp_path / "aside")
    assert contents(folder) == {"file": b"kept"}
    assert not (tmp_path / "aside").exists()


def test_embedded_model_is_one_that_the_job_may_replace(tmp_path: Path) -> None:
    model_card.require_replaceable(zoo.embedded("digits-dit"))
    with pytest.raises(StorageError):
        model_card.require_replaceable(zoo.embedded("digits-dit").parent)


@pytest.mark.parametrize(("override", "code"), [("name=../../x", 2), ("learning_rate=1e30", 1)])
def test_job_ends_with_one_line_and_its_exit_code(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    code: int,
) -> None:
    arguments = ["--config", str(tiny), "--out", str(tmp_path / "model"), "--set", override]
    monkeypatch.setattr(sys, "argv", [str(JOB), *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(JOB), run_name="__main__")
    printed = capsys.readouterr()
    assert caught.value.code == code
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: ")
