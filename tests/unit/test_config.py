import codecs
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from mutations import fuzzed, mutated
from pydantic import ValidationError

from l2c_ray.config.base import JobConfig
from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.config.imagenet import GenerationConfig
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.config.promotion import PromotionConfig
from l2c_ray.config.search import SearchConfig
from l2c_ray.config.serving import ServingConfig
from l2c_ray.config.toml import parse_toml
from l2c_ray.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SHIPPED = sorted(CONFIGS.glob("*.toml"))
SHIPPED_SERVE = sorted(CONFIGS.glob("serve*.yaml"))

MINIMAL = """\
[model]
name = "digits-dit"

[router]
lambda = 1e-4

[training]
iterations = 10
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str, config: type[JobConfig] = LearnConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        config.read(path, overrides)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


def test_values_are_read_and_the_rest_has_defaults(minimal: Path) -> None:
    config = LearnConfig.read(minimal)
    assert config.router.sparsity_weight == 1e-4
    assert config.training.iterations == 10
    assert (config.sampler.name, config.sampler.steps, config.router.theta) == ("ddim", 20, (0.5,))
    assert config.run.name is None


def test_config_cannot_be_changed_after_it_was_checked(minimal: Path) -> None:
    config = LearnConfig.read(minimal)
    with pytest.raises(ValidationError, match="frozen"):
        config.training.iterations = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("router.lambda=0.5", "router", "sparsity_weight", 0.5),
        ("router.theta = 0.25", "router", "theta", (0.25,)),
        ("training.iterations=7", "training", "iterations", 7),
        ('run.name="first"', "run", "name", "first"),
        ("run.name=first", "run", "name", "first"),
        ("cluster.workers=3", "cluster", "workers", 3),
    ],
)
def test_override_replaces_or_adds_a_key(minimal: Path, override: str, section: str, key: str, value: Any) -> None:
    assert getattr(getattr(LearnConfig.read(minimal, [override]), section), key) == value


@pytest.mark.parametrize("text", ["2026-01-05", "2026", "true", "1e3", "0x10", "nan", "12.50"])
@pytest.mark.parametrize("key", ["run.name", "run.experiment", "model.name"])
def test_override_of_a_text_key_takes_the_text_whatever_it_looks_like(minimal: Path, key: str, text: str) -> None:
    section, _, name = key.partition(".")
    assert getattr(getattr(LearnConfig.read(minimal, [f"{key}={text}"]), section), name) == text


def test_override_of_a_folder_or_of_a_list_of_texts_takes_the_text(minimal: Path) -> None:
    assert LearnConfig.read(minimal, ["model.checkpoint=2026"]).model.checkpoint == str(Path("2026").absolute())
    promotion = PromotionConfig.read(None, ["promotion.name=7", "promotion.alias=2026", "promotion.why=1e3"]).promotion
    assert (promotion.name, promotion.alias, promotion.why) == ("7", ("2026",), "1e3")


def test_override_of_a_number_key_takes_the_number(minimal: Path) -> None:
    config = LearnConfig.read(minimal, ["run.seed=2026", "router.lambda=1e3", "router.forecast=false"])
    assert (config.run.seed, config.router.sparsity_weight, config.router.forecast) == (2026, 1e3, False)


def test_text_that_fits_no_better_is_refused_as_it_was_read(minimal: Path) -> None:
    assert "it is 2.5 now" in refusal(minimal, "training.iterations=2.5")
    assert refusal(minimal, "training.iterations=2026-01-05").startswith("training.iterations in --set: ")


def test_list_in_place_of_a_text_is_refused_naming_the_option(minimal: Path) -> None:
    assert refusal(minimal, "run.name=[1]").startswith("run.name in --set: ")


@pytest.mark.parametrize("text", ["1979-05-27T07:32:00Z", "07:32:00", "-1", "+5", "[1]", "{a=1}", "5 # comment"])
def test_text_that_a_key_of_text_does_not_take_is_refused_as_a_text(minimal: Path, text: str) -> None:
    message = refusal(minimal, f"run.name={text}")
    assert message.startswith("run.name in --set: string should match pattern")
    assert message.endswith(f"it is {text!r} now")


@pytest.mark.parametrize("text", ["[1]", "[fast]", "{a = 1}", "[[1], 2]", "07:32:00", "-1", "'a' and 'b'"])
def test_reason_takes_the_text_whatever_it_looks_like(text: str) -> None:
    overrides = ["promotion.name=digits", "promotion.alias=champion", f"promotion.why={text}"]
    assert PromotionConfig.read(None, overrides).promotion.why == text


def test_list_in_a_key_of_texts_stays_a_list() -> None:
    message = refusal(CONFIGS / "promote-digits.toml", "promotion.alias=['fast', 1]", config=PromotionConfig)
    assert "should be a valid string; it is 1 now" in message


@pytest.mark.parametrize("key", ["\x1b[31mred.x", "router.\x1b[31mred", "r\u202eed"])
def test_key_that_cannot_be_seen_is_still_that_of_the_override(minimal: Path, key: str) -> None:
    assert " in --set: is not a key of this config" in refusal(minimal, f"{key}=1")


def test_key_of_a_file_with_unprintable_name_is_named_with_the_override(minimal: Path) -> None:
    path = minimal.rename(minimal.with_name("job\x1b[31m.toml"))
    assert refusal(path, "run.seed=-1").startswith("run.seed in --set: ")


def test_further_lines_of_an_override_are_part_of_its_text(minimal: Path) -> None:
    assert refusal(minimal, "run.seed=1\nforgotten=2").startswith("run.seed in --set: ")


def test_key_of_the_file_is_named_with_the_file_whatever_the_overrides_are(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL.replace("iterations = 10", "iterations = 0"))
    assert refusal(path, "run.seed=1", "training.batch_size=4").startswith(f"training.iterations in {path}: ")


def test_keys_that_do_not_go_together_are_named_with_both_places(minimal: Path) -> None:
    assert refusal(minimal, "router.budget=0.5").startswith(f"router in {minimal} and --set: takes lambda or budget")


def test_key_that_another_option_gave_is_named_with_the_command_line() -> None:
    with pytest.raises(ConfigError) as caught:
        PromotionConfig.read(CONFIGS / "promote-digits.toml", (), {"promotion.why": ""})
    assert caught.value.subject == "promotion.why in the command line"


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, b""])
def test_byte_order_mark_before_a_config_is_no_part_of_it(minimal: Path, mark: bytes) -> None:
    wanted = LearnConfig.read(minimal)
    minimal.write_bytes(mark + MINIMAL.replace("\n", "\r\n").encode())
    assert LearnConfig.read(minimal) == wanted


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_config_in_another_encoding_is_refused_with_the_way_out(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL + "# é", encoding=encoding)
    message = refusal(path)
    assert message.startswith(f"{path}: is not text in UTF-8")


def test_config_of_endless_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "too many to be what is read here" in refusal(path)


def test_device_in_place_of_a_config_is_refused() -> None:
    assert "is no ordinary file" in refusal(Path("/dev/zero"))


@fuzzed
@given(content=mutated(MINIMAL.encode()), override=mutated(b"run.name=2026-01-05"))
def test_damaged_config_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, override: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(content)
    for overrides in ([], [override.decode(errors="surrogateescape")]):
        try:
            LearnConfig.read(path, overrides)
        except ConfigError as error:
            message = str(error)
        else:
            continue
        assert message.isprintable()
        assert len(message) < 2000


def test_last_of_two_overrides_counts(minimal: Path) -> None:
    config = LearnConfig.read(minimal, ["training.iterations=7", "training.iterations=8"])
    assert config.training.iterations == 8


def test_override_of_a_key_without_a_section_works() -> None:
    assert PretrainingConfig.read(CONFIGS / "pretrain-digits.toml", ["batch_size=3"]).batch_size == 3


@pytest.mark.parametrize("override", ["router.theta", "=1", "router.=1", ""])
def test_what_is_no_override_is_refused(minimal: Path, override: str) -> None:
    assert "section.key=value" in refusal(minimal, override)


def test_override_below_a_value_is_refused_naming_it(minimal: Path) -> None:
    assert "model.name.first" in refusal(minimal, "model.name.first=1")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("router.lambda=-1e-4", "router.lambda"),
        ("router.lambda=nan", "router.lambda"),
        ("router.lambda=inf", "router.lambda"),
        ("router.theta=1.01", "router.theta"),
        ("router.theta=-0.01", "router.theta"),
        ("router.theta=[0.5, 1.01]", "router.theta"),
        ("sampler.steps=1", "sampler.steps"),
        ("sampler.steps=1001", "sampler.steps"),
        ("sampler.guidance_scale=-1", "sampler.guidance_scale"),
        ("cluster.workers=0", "cluster.workers"),
        ("training.iterations=0", "training.iterations"),
        ("training.batch_size=0", "training.batch_size"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.iterations=1.5", "training.iterations"),
        ("training.iterations=true", "training.iterations"),
        ('training.iterations="10"', "training.iterations"),
        ("evaluation.images=1", "evaluation.images"),
        ("run.seed=-1", "run.seed"),
        ("run.name='a/b'", "run.name"),
        ("run.storage='gs://bucket/runs'", "run.storage"),
        ("run.storage='s3://bucket/../runs'", "run.storage"),
        ("run.storage='~nobody-of-this-name/runs'", "run.storage"),
        ('model.checkpoint="a\\u0000b"', "model.checkpoint"),
        ("sampler.guidance_scale=1e30", "sampler.guidance_scale"),
        ("model.checkpoint='hf://model'", "model.checkpoint"),
        ("router.initial_logit=1e300", "router.initial_logit"),
        ("router.initial_logit=-101.0", "router.initial_logit"),
        ("cluster.wait_seconds=-1", "cluster.wait_seconds"),
        ("model.name=''", "model.name"),
        ("model=3", "model"),
    ],
)
def test_value_out_of_range_or_of_another_type_is_refused_naming_the_key(
    minimal: Path, override: str, named: str
) -> None:
    message = refusal(minimal, override)
    assert message.startswith(f"{named} in --set: ")


@pytest.mark.parametrize(
    ("override", "named", "hint"),
    [
        ("router.lamda=1", "router.lamda", "did you mean lambda?"),
        ("training.iteration=1", "training.iteration", "did you mean iterations?"),
        ("trainin.iterations=1", "trainin", "did you mean training?"),
        ("sampler.guidance_scales=1.0", "sampler.guidance_scales", "did you mean guidance_scale?"),
        ("training.noises=8", "training.noises", "it is called noise_pool_size now"),
        ("training.images_at_once=1", "training.images_at_once", "it is called micro_batch_size now"),
        ("training.along_the_way=0.1", "training.along_the_way", "it is called intermediate_loss_weight now"),
        ("data.mixed_shards=2", "data.mixed_shards", "it is called shuffle_shards now"),
    ],
)
def test_unknown_or_old_key_is_refused_with_the_right_one(minimal: Path, override: str, named: str, hint: str) -> None:
    message = refusal(minimal, override)
    assert message.startswith(f"{named} in --set: is not a key of this config")
    assert hint in message


def test_unknown_key_like_no_other_is_refused_with_the_keys_there_are(minimal: Path) -> None:
    message = refusal(minimal, "router.xyz=1")
    assert "lambda" in message
    assert "theta" in message


def test_folder_means_the_same_in_every_working_directory(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = LearnConfig.read(minimal, ["run.storage=runs", "model.checkpoint='~/weights'"])
    assert config.run.storage == str(tmp_path / "runs")
    assert LearnConfig.read(minimal, ["run.storage=s3://bucket/runs"]).run.storage == "s3://bucket/runs"
    assert config.model.checkpoint == str(Path.home() / "weights")
    monkeypatch.chdir("/")
    assert LearnConfig.parse(config.model_dump(by_alias=True), source="config") == config


@pytest.mark.parametrize("line", ["lambda = 1e-4", 'name = "digits-dit"', "iterations = 10"])
def test_missing_key_is_refused_naming_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL.replace(line, ""))
    message = refusal(path)
    assert line.split(" =")[0] in message
    assert "missing" in message


def test_missing_file_is_refused_naming_it(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in refusal(tmp_path / "none.toml")


def test_folder_in_place_of_a_file_is_refused_naming_it(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"[model", b"a = ", b"{}", b"a = 1\na = 2"])
def test_file_that_is_not_toml_is_refused_naming_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    message = refusal(path)
    assert str(path) in message
    assert "not TOML" in message


@pytest.mark.parametrize("content", ["a = " + "[" * 10_000, "a = " + "{b=" * 10_000, "a = " + "9" * 10_000])
def test_toml_that_python_cannot_read_is_refused_naming_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(content)
    message = refusal(path)
    assert message.startswith(str(path))
    assert "not TOML" in message


@pytest.mark.parametrize("value", ["[" * 10_000, "9" * 10_000])
def test_override_that_python_cannot_read_is_refused_naming_the_key(minimal: Path, value: str) -> None:
    assert refusal(minimal, f"router.theta={value}").startswith("router.theta")


def test_key_of_more_parts_than_any_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL.replace("lambda = 1e-4", "lambda" + ".a" * 500_000 + " = 1"))
    assert "a key has more than 32 parts" in refusal(path)
    path.write_text(MINIMAL)
    assert "is not an override" in refusal(path, "a" + ".a" * 50_000 + "=1")
    assert "a key has more than 32 parts" in refusal(path, "router={a" + ".a" * 50_000 + "=1}")


@pytest.mark.parametrize("part", ["'a=.b'", "'#['", '"a,.b"', '"a\\"=.b"', "''", "a"])
@pytest.mark.parametrize(
    "line", ["a{} = 1", "[a{}]", "[[a{}]]", "[[b]]\na{} = 1", "b = {{ a{} = 1 }}", "b = [{{ a{} = 1 }}]"]
)
def test_key_of_many_quoted_parts_is_refused_before_it_is_read(part: str, line: str) -> None:
    text = line.format(f" . {part}" * 33)
    tomllib.loads(text)
    with pytest.raises(ValueError, match="a key has more than 32 parts"):
        parse_toml(text)


def test_text_with_many_dots_is_no_key() -> None:
    why = "It is better. " * 50
    assert parse_toml(f'why = "{why}"') == {"why": why}


def test_table_in_place_of_a_value_is_refused_naming_the_key(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(MINIMAL.replace("lambda = 1e-4", "lambda" + ".a" * 20 + " = 1"))
    assert refusal(path).startswith("router.lambda")


@pytest.mark.parametrize("name", ["", "../../x", "a/b", ".hidden", "a b", "a" * 129, "a\nb"])
def test_name_of_a_pretrained_model_must_be_a_file_name(name: str) -> None:
    values = tomllib.loads((CONFIGS / "pretrain-digits.toml").read_text()) | {"name": name}
    with pytest.raises(ConfigError) as caught:
        PretrainingConfig.parse(values, source="test")
    assert caught.value.subject == "name in test"


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 31), (1, 30), (2, 1), (3, 2)])
def test_pretrained_width_must_be_a_multiple_of_4(heads: int, head_dim: int) -> None:
    overrides = (f"heads={heads}", f"head_dim={head_dim}")
    message = refusal(CONFIGS / "pretrain-digits.toml", *overrides, config=PretrainingConfig)
    assert f"head_dim must be a multiple of 4, and is {heads * head_dim}" in message


def test_pretraining_must_warm_up_before_the_end() -> None:
    message = refusal(CONFIGS / "pretrain-digits.toml", "warmup_steps=2500", config=PretrainingConfig)
    assert "warmup_steps" in message


def test_serving_arguments_are_refused_naming_the_key() -> None:
    with pytest.raises(ConfigError, match="did you mean alias"):
        ServingConfig.parse({"model": "digits-dit", "alais": "champion"}, source="args")


def test_there_are_shipped_configs() -> None:
    assert SHIPPED
    assert SHIPPED_SERVE


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_fits_the_job_that_reads_it(path: Path) -> None:
    jobs: dict[str, type[JobConfig]] = {
        "encode": EncodingConfig,
        "imagenet": GenerationConfig,
        "pretrain": PretrainingConfig,
        "promote": PromotionConfig,
        "search": SearchConfig,
    }
    words = path.stem.split("-")
    config = jobs.get(words[0]) or jobs.get(words[-1], LearnConfig)
    assert config.read(path) == config.parse(tomllib.loads(path.read_text()), source="x")


@pytest.mark.parametrize("path", SHIPPED_SERVE, ids=lambda path: path.name)
def test_shipped_serve_config_has_arguments_that_fit(path: Path) -> None:
    for application in yaml.safe_load(path.read_text())["applications"]:
        assert ServingConfig.parse(application["args"], source=path.name).model == "digits-dit"
