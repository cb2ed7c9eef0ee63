"""Search configs: values that are accepted and refused, and the space that they make."""

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from search_factories import LEARN, search_config

from l2c_ray.config.search import SearchConfig
from l2c_ray.errors import ConfigError
from l2c_ray.search.space import distance, make_space

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
BUDGET = {**LEARN, "router": {"budget": 0.5}}


@pytest.mark.parametrize(
    ("tables", "subject"),
    [
        ({"space": {"router.lambda": {"low": -1.0, "high": 1.0}}}, "space.router.lambda"),
        ({"space": {"training.batch_size": {"low": 0, "high": 8}}}, "space.training.batch_size"),
        ({"space": {"training.batch_size": {"low": 1.0, "high": 8.0}}}, "space.training.batch_size"),
        ({"space": {"router.theta": {"choices": [0.5, 1.5]}}}, "space.router.theta"),
        ({"space": {"router.lamda": {"low": 1e-5, "high": 1e-3}}}, "space.router.lamda"),
        ({"space": {"sampler.steps": {"low": 10, "high": 20}}}, "space.sampler.steps"),
        ({"space": {"training.batch_size": {"low": 8, "high": 2}}}, "space.training.batch_size"),
        ({"space": {"training.batch_size": {"low": 2, "high": 8, "step": 7}}}, "space.training.batch_size"),
        ({"space": {"training.batch_size": {"low": 2}}}, "space.training.batch_size"),
        ({"space": {"training.batch_size": {"low": 2, "high": 8, "choices": [2]}}}, "space.training.batch_size"),
        ({"space": {"training.batch_size": {"low": 2, "hihg": 8}}}, "space.training.batch_size.hihg"),
        ({"space": {"training.batch_size": {"low": 2, "high": 10**400}}}, "space.training.batch_size.high"),
        ({"space": {"training.learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}, "space.training.learning_rate"),
        ({"space": {"training.learning_rate": {"low": "a", "high": 1.0}}}, "space.training.learning_rate.low"),
        ({"space": {"training.learning_rate": {"low": 0.1, "high": math.inf}}}, "space.training.learning_rate.high"),
        (
            {"space": {"training.learning_rate": {"low": 0.1, "high": 1.0, "step": math.nan}}},
            "space.training.learning_rate.step",
        ),
        ({"learn": {**LEARN, "training": {"iterations": 0}}}, "learn.training.iterations"),
        ({"learn": {**LEARN, "trainer": {}}}, "learn.trainer"),
        ({"objective": {"max_mse": 1e-3, "max_cost": 0.5}}, "objective"),
        ({"study": {"pruner": "median"}}, "study.pruner"),
        ({"study": {"sampler": "grid"}}, "study.sampler"),
        ({"derive": {"theta": [1.5]}}, "derive.theta"),
        ({"derive": {"budget": [1.5]}}, "derive.budget"),
        ({"derive": {"theta": [0.3]}, "space": {"router.theta": {"choices": [0.5]}}}, "space.router.theta"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_its_key(tables: dict[str, Any], subject: str) -> None:
    with pytest.raises(ConfigError) as caught:
        search_config(**tables)
    assert caught.value.subject == f"{subject} in test"


@pytest.mark.parametrize("derive", [{"theta": [0.3]}, {"by_phase": [[0.3, 0.5]]}, {"budget": [0.6]}])
def test_thresholds_are_derived_of_the_papers_router_alone(derive: dict[str, Any]) -> None:
    values = {
        "learn": BUDGET,
        "study": {"trials": 1},
        "space": {"training.batch_size": {"choices": [2, 4]}},
        "derive": derive,
    }
    with pytest.raises(ConfigError, match="derive in test: thresholds are of the paper's router"):
        SearchConfig.parse(values, source="test")


def test_base_may_be_a_file_beside_the_config_and_is_overridden_by_key(tmp_path: Path) -> None:
    path = search_file(tmp_path)
    config = SearchConfig.read(path, ["learn.training.iterations=7", "space.router.lambda.high=2e-3"])
    learned = config.learn_config({"router.lambda": 1e-4})
    assert (learned.training.iterations, learned.router.sparsity_weight) == (7, 1e-4)
    assert learned.model.name == "digits-dit"
    assert config.space["router.lambda"].high == 2e-3


@pytest.mark.parametrize("folder", ["$L2C_HOME", "~"])
def test_base_may_be_in_a_named_folder(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("L2C_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    path = search_file(tmp_path)
    path.write_text(path.read_text().replace("base.toml", f"{folder}/base.toml"))
    (tmp_path / "below").mkdir()
    assert SearchConfig.read(path.rename(tmp_path / "below" / "search.toml")).learn["model"] == {"name": "digits-dit"}


def test_base_in_no_users_home_is_refused_by_its_key(tmp_path: Path) -> None:
    path = search_file(tmp_path)
    path.write_text(path.read_text().replace("base.toml", "~nobody-of-this-name/base.toml"))
    with pytest.raises(ConfigError, match=r"^learn in .*search\.toml: names no user's home"):
        SearchConfig.read(path)


def search_file(folder: Path) -> Path:
    (folder / "base.toml").write_text((CONFIGS / "digits.toml").read_text())
    path = folder / "search.toml"
    path.write_text('learn = "base.toml"\n[study]\ntrials = 3\n[space]\nrouter.lambda = {low = 1e-5, high = 1e-3}\n')
    return path


@pytest.mark.parametrize("text", ["2026-01-05", "2026", "true", "1e3"])
def test_override_of_a_text_in_learn_takes_the_text_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    config = SearchConfig.read(search_file(tmp_path), [f"learn.run.experiment={text}", f"study.name={text}"])
    assert config.learn_config({"router.lambda": 1e-4}).run.experiment == text
    assert config.study.name == text


@pytest.mark.parametrize(
    ("override", "subject"),
    [
        ("learn.run.seed=-1", "learn.run.seed in --set"),
        ("space.router.lambda.high=-1", "space.router.lambda in {path} and --set"),
        ("space.run.seed.low=-1", "space.run.seed in --set"),
        ("study.trials=2026-01-05", "study.trials in --set"),
    ],
)
def test_error_of_an_override_names_the_option(tmp_path: Path, override: str, subject: str) -> None:
    path = search_file(tmp_path)
    with pytest.raises(ConfigError) as caught:
        SearchConfig.read(path, [override])
    assert caught.value.subject == subject.format(path=path)


def test_every_kind_of_range_becomes_a_distribution() -> None:
    space = make_space(
        search_config(
            space={
                "router.shifted": {"choices": [True, False]},
                "training.noise_pool_size": {"low": 8, "high": 32, "step": 8},
            }
        ).space
    )
    assert space == {
        "router.lambda": FloatDistribution(1e-5, 1e-3, log=True),
        "training.batch_size": IntDistribution(2, 8),
        "router.shifted": CategoricalDistribution([True, False]),
        "training.noise_pool_size": IntDistribution(8, 32, step=8),
    }


def test_step_may_be_as_wide_as_its_range() -> None:
    # 4.3 - 4.0 is less than 0.3 in binary.
    space = make_space(search_config(space={"training.learning_rate": {"low": 4.0, "high": 4.3, "step": 0.3}}).space)
    assert space["training.learning_rate"] == FloatDistribution(4.0, 4.3, step=0.3)


def test_distance_is_over_the_range_and_its_scale() -> None:
    space = make_space(search_config(space={"router.shifted": {"choices": [True, False]}}).space)
    here = {"router.lambda": 1e-5, "training.batch_size": 2, "router.shifted": True}
    assert distance(space, here, here) == 0
    assert distance(space, here, here | {"router.lambda": 1e-4}) == pytest.approx(0.5)
    assert distance(space, here, here | {"training.batch_size": 8}) == pytest.approx(1)
    assert distance(space, here, here | {"router.shifted": False}) == 1
