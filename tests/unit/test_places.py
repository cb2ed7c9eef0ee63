"""Places that configs, options and the environment give: from the root on, and none that a job would lose."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError
from typer.models import ArgumentInfo
from unit_factories import L2C, Refused

from l2c_ray.cli.main import app
from l2c_ray.config.base import JobConfig, Section
from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.config.imagenet import GenerationConfig
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.config.promotion import PromotionConfig
from l2c_ray.config.search import SearchConfig
from l2c_ray.config.serving import ServingConfig
from l2c_ray.errors import ConfigError, L2CError, StorageError
from l2c_ray.storage import environment, places
from l2c_ray.storage.files import home

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "jobs" / "configs"

JOBS: tuple[type[JobConfig], ...] = (
    EncodingConfig,
    GenerationConfig,
    LearnConfig,
    PretrainingConfig,
    PromotionConfig,
    SearchConfig,
    ServingConfig,
)

WRITTEN = {"run.storage", "images.storage", "latents.storage"}
READ = {
    "model.checkpoint",
    "model.vae",
    "images.schedule",
    "source.images",
    "latents.vae",
    "data.latents",
    "router.profile",
    "promotion.checkpoint",
    "checkpoint",
    "vae",
}
TEXT = {
    "run.name",
    "run.experiment",
    "study.name",
    "model",
    "model.name",
    "sampler",
    "sampler.name",
    "source.files",
    "source.image_column",
    "source.label_column",
    "promotion.name",
    "promotion.alias",
    "promotion.why",
    "name",
    "alias",
    "hosts",
    "space.choices",
}
"""Keys that no place is given by. A new key has to be put into one of the three."""

WRITTEN_OPTIONS = {"learn --out", "generate --out", "compare --out", "profile --out", "schedule import --out"} | {
    "schedule export --out",
    "registry export --out",
}
READ_OPTIONS = {
    "learn config",
    "encode config",
    "search config",
    "imagenet generate config",
    "imagenet evaluate images",
    "imagenet evaluate --reference",
    "imagenet evaluate --inception",
    "registry promote --config",
    "generate --schedule",
    "compare --schedules",
    "bench --schedule",
    "schedule show file",
    "schedule import file",
    "schedule export file",
    "generate --vae",
} | {f"{command} --checkpoint" for command in ("generate", "compare", "bench", "profile", "drift")}
TEXT_OPTIONS = {"--set", "--alias", "--why", "--model", "--sampler", "--policies", "model", "name", "version"} | {
    "first",
    "second",
}

VARIABLES_OF_NO_PLACE = {
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "L2C_HEAD",
    "L2C_WHO",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "RAY_JOB_STOP_WAIT_TIME_S",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_RAYLET_PID",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_USE_TLS",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is deleted."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


@pytest.fixture
def job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a submitted job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://package.zip"}}))
    return folder


def text_keys(section: type[Section], table: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a section, and of those in it, that take a text; each with its type."""
    for name, field in section.model_fields.items():
        key = f"{table}.{field.alias or name}".lstrip(".")
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        sections = [part for part in parts_of(field.annotation) if inspect.isclass(part) and issubclass(part, Section)]
        if str in parts_of(field.annotation) or key == "router.profile":
            yield key, annotation
        for inner in sections if key != "router.profile" else ():
            yield from text_keys(inner, key)


def parts_of(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return []
    # Keys of a table are no values.
    inner = get_args(annotation)[1:] if get_origin(annotation) is dict else get_args(annotation)
    return [part for each in inner for part in parts_of(each)] if inner else [annotation]


KEYS = {key: annotation for job in JOBS for key, annotation in text_keys(job)}


def place_of(key: str, given: str) -> str:
    """The place that the key has for what is given."""
    place: TypeAdapter[str] = TypeAdapter(KEYS[key])
    try:
        return place.validate_python(given)
    except ConfigError as error:
        # A profile is read at once, and none is there.
        return getattr(error.__cause__, "subject", "")


def options() -> Iterator[str]:
    """All parameters of all commands that take a text or a path, by command and name."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    for prefix, group in groups:
        for command in group.registered_commands:
            called = command.name or command.callback.__name__
            for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
                kind, info = get_args(parameter.annotation)
                if {str, Path} & set(parts_of(kind)):
                    # Where an option is named, Typer keeps the first name in place of a default.
                    named = name if isinstance(info, ArgumentInfo) else info.default
                    yield f"{prefix}{called} {f'--{name}' if named is ... else named}"


def test_every_key_is_known_to_be_read_written_or_no_place() -> None:
    assert set(KEYS) == WRITTEN | READ | TEXT


def test_every_option_is_known_to_be_read_written_or_no_place() -> None:
    known = {name for name in options() if name.rpartition(" ")[2] not in TEXT_OPTIONS}
    assert known == WRITTEN_OPTIONS | READ_OPTIONS


def test_every_variable_of_the_environment_is_classified() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "l2c_ray").rglob("*.py"))
    read = set(re.findall(r'"((?:L2C|RAY|MLFLOW|AWS)_[A-Z0-9_]+)"', source))
    assert read - {*environment.WRITTEN, *environment.READ} == VARIABLES_OF_NO_PLACE


@pytest.mark.parametrize("key", sorted(WRITTEN))
def test_a_job_refuses_a_relative_place_to_write_to(key: str, job: Path) -> None:
    place: TypeAdapter[str] = TypeAdapter(KEYS[key])
    with pytest.raises(ValidationError, match=r"relative.*lost.*from the root on.*L2C_HOME.*s3://"):
        place.validate_python("images/digits")
    assert place.validate_python("/shared/images") == "/shared/images"
    assert place.validate_python("s3://bucket/images") == "s3://bucket/images"


@pytest.mark.parametrize("key", sorted(WRITTEN | READ))
def test_outside_of_a_job_a_relative_place_is_where_the_user_is(key: str, folder: Path) -> None:
    assert place_of(key, "images/digits") == str(folder / "images" / "digits")


@pytest.mark.parametrize("key", sorted(READ))
def test_a_job_reads_relative_places_of_what_was_submitted(key: str, job: Path) -> None:
    assert place_of(key, "weights") == str(job / "weights")


@pytest.mark.parametrize("key", sorted(WRITTEN | READ))
@pytest.mark.usefixtures("job")
def test_home_folder_is_named_in_a_config(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", "/shared/home")
    assert place_of(key, "$L2C_HOME/images/digits") == "/shared/home/images/digits"
    assert place_of(key, "$L2C_HOME") == "/shared/home"
    assert place_of(key, "~/digits") == str(Path.home() / "digits")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configs_read_alike_in_a_job_and_outside(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = next(job for job in JOBS if _fits(job, path))
    here = config.read(path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir("/")
    assert config.read(path) == here


def _fits(job: type[JobConfig], path: Path) -> bool:
    try:
        job.read(path)
    except ConfigError:
        return False
    return True


@pytest.mark.usefixtures("job")
def test_generation_that_would_lose_its_images_is_refused(refused: Refused, tmp_path: Path) -> None:
    config = tmp_path / "generate.toml"
    config.write_text('[model]\nname = "digits-dit"\n[images]\nstorage = "images/digits"\ncount = 4\n')
    line = refused("imagenet", "generate", config)
    assert "images.storage in" in line
    assert "'images/digits'" in line


@pytest.mark.parametrize("name", sorted(WRITTEN_OPTIONS))
@pytest.mark.usefixtures("job")
def test_options_of_what_is_written_refuse_a_relative_path_in_a_job(name: str, refused: Refused, l2c: L2C) -> None:
    command, option = name.split()[:-1], name.split()[-1]
    assert f"{option} images: is relative" in refused(*command, option, "images")
    assert "relative" not in l2c(*command, option, "/shared/images").err


@pytest.mark.usefixtures("job")
def test_pretraining_refuses_a_relative_folder_in_a_job(tmp_path: Path) -> None:
    from l2c_ray.cli.pretraining import pretrain_and_report

    with pytest.raises(ConfigError, match="--out digits-dit: is relative"):
        pretrain_and_report(CONFIGS / "pretrain-digits.toml", [], Path("digits-dit"))


ADDRESSES = [
    ("L2C_HOME", "here", "{}/here"),
    ("L2C_STORAGE", "runs", "{}/runs"),
    ("L2C_STUDY_STORAGE", "sqlite:///relative.db", "sqlite:///{}/relative.db"),
    ("MLFLOW_TRACKING_URI", "sqlite:///a/relative.db?timeout=5", "sqlite:///{}/a/relative.db?timeout=5"),
    ("MLFLOW_TRACKING_URI", "mlruns", "{}/mlruns"),
    ("MLFLOW_TRACKING_URI", "file:mlruns", "file:{}/mlruns"),
    ("MLFLOW_REGISTRY_URI", "sqlite+pysqlite:///relative.db", "sqlite+pysqlite:///{}/relative.db"),
]


@pytest.mark.parametrize(("name", "given", "wanted"), ADDRESSES)
def test_variables_name_places_from_the_root_on(name: str, given: str, wanted: str, folder: Path) -> None:
    assert environment.normalized({name: given})[name] == wanted.format(folder)


@pytest.mark.parametrize(("name", "given", "wanted"), ADDRESSES)
@pytest.mark.usefixtures("job")
def test_a_job_refuses_variables_of_relative_places(name: str, given: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=.*is relative, .* lost"):
        environment.normalized({**os.environ, name: given})


def test_a_replica_of_ray_serve_refuses_variables_of_relative_places() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        environment.normalized({"RAY_RAYLET_PID": "7", "MLFLOW_TRACKING_URI": "sqlite:///relative.db"})


@pytest.mark.parametrize("name", environment.READ)
def test_variables_of_what_is_read_name_files_from_the_root_on(name: str, job: Path) -> None:
    assert environment.normalized({**os.environ, name: "keys/ca.pem"})[name] == str(job / "keys" / "ca.pem")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "databricks",
        "databricks-uc",
        "file:///var/mlruns",
        "http://127.0.0.1:5000",
        "postgresql+psycopg://me:s3cret@db/studies",
        "s3://bucket/runs",
        "http:foo",
        "http:/127.0.0.1:5000",
        "uc:x",
        "sqlite:rel.db",
        "sqlite:////var/mlflow.db",
        "sqlite:///file:rel.db?uri=true",
        "sqlite:///file::memory:?cache=shared",
        "sqlite:///:memory:",
        "sqlite://",
    ],
)
@pytest.mark.usefixtures("job")
def test_addresses_of_no_relative_file_stay_as_they_are(address: str) -> None:
    for name in environment.WRITTEN:
        assert environment.normalized({**os.environ, name: address}).get(name, address) == address


def test_commands_use_the_variables_as_they_were_where_the_user_is(
    l2c: L2C, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("L2C_HOME", "here")
    assert l2c("schedule", "show", "missing.json").code == 2
    assert os.environ["L2C_HOME"] == str(folder / "here")


@pytest.mark.usefixtures("job")
def test_commands_refuse_variables_of_relative_places_in_a_job(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("L2C_STUDY_STORAGE", "sqlite:///relative.db")
    assert "L2C_STUDY_STORAGE=sqlite:///relative.db" in refused("schedule", "show", "missing.json")


@pytest.mark.parametrize("path", ["a\0b", "~nobody-of-this-name/runs"])
def test_paths_that_can_be_none_are_refused(path: str) -> None:
    with pytest.raises(L2CError):
        environment.normalized({"L2C_STORAGE": path})
    with pytest.raises(ValueError, match="null byte|home"):
        places.absolute(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_user_without_a_home_is_told_to_set_one() -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "L2C_HOME")}
    code = "import os; from l2c_ray.storage.files import home; os.setuid(54321); home()"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert "StorageError: L2C_HOME: " in done.stderr
    assert done.stderr.splitlines()[-1].endswith("set it to a folder you may write")


def test_home_folder_of_a_user_without_a_home_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", "~nobody-of-this-name/l2c")
    with pytest.raises(StorageError, match="L2C_HOME: names no folder"):
        home()


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"L2C_HOME": "rel"}, ("drift", "foo")),
        ({"L2C_STORAGE": "rel"}, ("drift", "foo")),
        ({}, ("learn", CONFIGS / "digits.toml", "--set", "run.storage=rel")),
    ],
)
@pytest.mark.usefixtures("deleted")
def test_deleted_working_folder_is_told_of_in_one_line(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], arguments: Any
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "rel: is relative, and the working folder was deleted" in refused(*arguments)


@pytest.mark.usefixtures("deleted")
def test_home_folder_relative_to_a_deleted_one_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", "rel")
    with pytest.raises(StorageError, match="rel: is relative"):
        home()
