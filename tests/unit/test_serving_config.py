import pytest

from l2c_ray.config.serving import FULL, ServingConfig
from l2c_ray.errors import ConfigError


def config(alias: str) -> ServingConfig:
    return ServingConfig.parse({"model": "digits-dit", "alias": alias}, source="args")


@pytest.mark.parametrize("alias", ["champion", "fast-2", "Quality_1"])
def test_alias_that_mlflow_takes_is_taken(alias: str) -> None:
    assert config(alias).alias == alias


@pytest.mark.parametrize("alias", ["", "the best", "a/b", "a.b", "a" * 256, "a\n"])
def test_alias_that_mlflow_does_not_take_is_refused(alias: str) -> None:
    with pytest.raises(ConfigError, match="alias in args"):
        config(alias)


def test_home_of_the_user_is_the_same_as_in_a_learning_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    parsed = ServingConfig.parse({"model": "digits-dit", "checkpoint": "~/weights"}, source="args")
    assert parsed.checkpoint == "/somebody/weights"


def test_alias_that_means_the_run_without_a_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="alias in args: full is what requests call"):
        config(FULL)


@pytest.mark.parametrize("host", ["", "a host", "http://localhost", "localhost:8000", "[::1]:8000", "*", "a/b"])
def test_host_that_is_no_name_or_address_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="hosts in args: is no name or address of a host"):
        ServingConfig.parse({"model": "digits-dit", "hosts": [host]}, source="args")


def test_hosts_are_kept_in_one_way_of_writing() -> None:
    parsed = ServingConfig.parse({"model": "digits-dit", "hosts": ["Images.Example.", "0::1", "[::1]"]}, source="args")
    assert parsed.hosts == ("images.example", "::1", "::1")
