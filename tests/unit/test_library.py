"""The names of `import l2c_ray`: lazy, complete, each with an example that runs."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import l2c_ray
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import RegistryError
from l2c_ray.policies import rules
from l2c_ray.registry.versions import model_name
from l2c_ray.schedule import Schedule

REPOSITORY = Path(__file__).parents[2]


def documented(name: str) -> Any:
    """The object whose docstring has the example."""
    return rules if name == "RULES" else getattr(l2c_ray, name)


@pytest.mark.parametrize("name", l2c_ray.__all__)
def test_every_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(REPOSITORY)
    (example,) = doctest.DocTestFinder(recurse=False).find(documented(name), name)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_example_of_the_package_runs() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(l2c_ray, "l2c_ray")
    assert doctest.DocTestRunner().run(example).failed == 0


def test_names_are_listed_and_others_refused() -> None:
    assert set(l2c_ray.__all__) <= set(dir(l2c_ray))
    with pytest.raises(AttributeError, match="has no attribute 'laod_model'"):
        _ = l2c_ray.laod_model


def test_import_loads_none_of_its_names() -> None:
    code = "import sys, l2c_ray; print([name for name in sys.modules if name.startswith('l2c_ray.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_name_of_another_program_is_refused_before_anything_is_measured(
    client: MlflowClient, digits_pipeline: Pipeline, half: Schedule
) -> None:
    name = model_name(digits_pipeline.model.identity(), digits_pipeline.solver.name, digits_pipeline.solver.steps)
    client.register_prompt(name, "theirs")
    with pytest.raises(RegistryError, match="is a prompt in the registry"):
        l2c_ray.register(digits_pipeline, half, run="mine")
    assert client.get_experiment_by_name("l2c") is None
