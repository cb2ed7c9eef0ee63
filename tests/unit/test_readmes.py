"""Commands and Python blocks of the READMEs: run where that is cheap, else parsed as their programs would."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import l2c_ray
from l2c_ray.cli.main import app, main
from l2c_ray.config.base import JobConfig, Section
from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.config.imagenet import GenerationConfig
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.config.promotion import PromotionConfig
from l2c_ray.config.search import SearchConfig
from l2c_ray.config.serving import ServingConfig
from l2c_ray.registry.tracking import tracking_uri

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("infra", "jobs", "l2c_ray", "tests")
READMES = [
    REPOSITORY / "README.md",
    *sorted(readme for folder in FOLDERS for readme in REPOSITORY.glob(f"{folder}/**/README.md")),
]

RUN = (
    "l2c registry list",
    "l2c registry show",
    "l2c registry export",
    "l2c registry diff",
    "l2c registry push",
    "l2c generate",
    "l2c profile",
)
"""Commands that are run, in the order of their README."""

NOT_RUN = {
    "make": "starts clusters or runs for hours",
    "ray job submit": "needs a cluster",
    "serve deploy": "needs a cluster",
    "curl": "needs an endpoint",
    "pip install": "needs a network",
    "pytest": "runs for minutes to hours",
    ". .l2c/head.env": "is written by make quickstart",
    "export AWS_ENDPOINT_URL": "holds keys of the reader's own",
    "mlflow artifacts download": "repeats what the Python block of infra/README.md loads",
    "python jobs/": "trains for minutes",
    "l2c learn": "learns for minutes",
    "l2c search": "learns for half an hour",
    "l2c compare": "measures for minutes",
    "l2c registry promote": "measures on a cluster",
    "l2c registry rollback": "needs a promotion before it",
    "l2c drift": "measures for a minute",
    "l2c schedule": "needs a router of the paper's authors",
    "l2c bench": "times DiT-XL/2",
    "l2c encode": "needs ImageNet",
    "l2c imagenet": "needs weights of DiT-XL/2 and Inception",
}
"""Commands that are only parsed, each with the reason."""

CONFIGS: dict[str, tuple[type[JobConfig], list[str]]] = {
    "jobs/learn.py": (LearnConfig, ["learn"]),
    "jobs/search.py": (SearchConfig, ["search"]),
    "jobs/encode.py": (EncodingConfig, ["encode"]),
    "jobs/generate.py": (GenerationConfig, ["imagenet", "generate"]),
    "jobs/promote.py": (PromotionConfig, ["registry", "promote"]),
    "jobs/pretrain.py": (PretrainingConfig, []),
    "jobs/configs/serve.yaml": (ServingConfig, []),
}
"""By heading of jobs/README.md: the config, and the words of the `l2c` command that reads it."""


@dataclass(frozen=True)
class Block:
    """Text between two fences."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


def blocks(readme: Path) -> list[Block]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in fenced]


def name_of(readme: Path) -> str:
    return str(readme.relative_to(REPOSITORY))


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose registry has a champion and another version."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2C_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        pipeline = l2c_ray.Pipeline.load("digits-dit")
        for interval in (4, 2):
            schedule = l2c_ray.schedule_by_rule(f"taylor:interval={interval},order=2", pipeline)
            l2c_ray.register(pipeline, schedule, run=f"interval {interval}", images=4)
    return home


@pytest.fixture
def checkout(champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder like a checkout's, in which commands may write."""
    for entry in ("Makefile", "infra", "jobs", "l2c_ray", "tests"):
        (tmp_path / entry).symlink_to(REPOSITORY / entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("L2C_HOME", str(champion))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    return tmp_path


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_commands_of_a_readme_run_or_parse(readme: Path, checkout: Path) -> None:
    for command in (command for block in blocks(readme) if not block.language for command in block.commands):
        ran = any(command.startswith(prefix) for prefix in RUN)
        assert ran or any(command.startswith(prefix) for prefix in NOT_RUN), f"{command} is in neither list"
        words = shlex.split(command, comments=True)
        if ran:
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            assert ended.value.code == 0, command
        else:
            parse(words)


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_python_of_a_readme_runs(readme: Path, checkout: Path) -> None:
    for block in blocks(readme):
        assert block.language in ("", "python", "text", "mermaid")
        if block.language == "python":
            exec(compile(block.text, name_of(readme), "exec"), {})  # noqa: S102


@pytest.mark.parametrize("prefix", [*RUN, *NOT_RUN])
def test_lists_name_only_commands_of_readmes(prefix: str) -> None:
    commands = [command for readme in READMES for block in blocks(readme) for command in block.commands]
    assert any(command.startswith(prefix) for command in commands)


def parse(words: list[str]) -> None:
    """Parses a command as its program would: targets, options, files and configs have to be there."""
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "l2c":
        parse_l2c(arguments)
    elif program == "ray":
        parse_job([word for word in arguments[arguments.index("--") + 1 :] if word != "python"])
    elif program == "python":
        parse_job(arguments)
    elif program == "serve":
        (application,) = yaml.safe_load(Path(arguments[-1]).read_text())["applications"]
        ServingConfig.parse(application["args"], source=arguments[-1])
    elif program == "pytest":
        assert all(Path(word).exists() for word in arguments if "/" in word)
    elif program == "pip":
        assert Path(arguments[arguments.index("-c") + 1]).is_file()


def parse_job(arguments: list[str]) -> None:
    script, *options = arguments
    assert Path(script).is_file()
    if script in CONFIGS:
        config, _ = CONFIGS[script]
        given = list(zip(options[::2], options[1::2], strict=True))
        config.read(Path(dict(given)["--config"]), [value for key, value in given if key == "--set"])


def parse_l2c(arguments: list[str]) -> None:
    """Parses the options, and reads the config with its overrides."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("l2c", list(arguments))
    path = []
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
        path.append(name)
    configs = [config for config, words in CONFIGS.values() if words == path]
    if configs and context.params.get("config"):
        configs[0].read(Path(context.params["config"]), context.params["overrides"] or ())


def keys_of(section: type[Section], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a config."""
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from keys_of(inner, f"{key}.")
        else:
            yield key


@pytest.mark.parametrize("job", CONFIGS)
def test_every_config_key_is_in_the_jobs_readme(job: str) -> None:
    config, _ = CONFIGS[job]
    text = (REPOSITORY / "jobs" / "README.md").read_text()
    section = text.partition(f"\n### {job}\n")[2].partition("\n### ")[0]
    rows = [row.split("|")[1:4] for row in section.splitlines() if row.startswith("| `")]
    written = {key for first, *_ in rows for key in re.findall(r"`([^`]+)`", first)}
    keys = set(keys_of(config))
    tables = {key.partition(".")[0] for key in keys if "." in key}
    described = {key for key in keys if key in written or key.partition(".")[0] in written & tables}
    assert keys - described == set()
    assert written - keys - tables == set()
