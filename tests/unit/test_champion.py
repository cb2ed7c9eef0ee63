import logging
from dataclasses import replace
from typing import Any

import pytest
from lineages import add
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from registry_factories import NAME, PROTOCOL, add_foreign, measured

from l2c_ray.errors import L2CError, RegistryError
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import (
    CHAMPION,
    RegisteredVersion,
    list_versions,
    resolve,
)
from l2c_ray.schedule import Guidance, Quality, Schedule


def version(compute_share: float, mse: float) -> RegisteredVersion:
    conditions = ("a" * 64, "1.5 standard", PROTOCOL)
    return RegisteredVersion(NAME, 1, (), "0" * 64, compute_share, mse, *conditions, "", "", True)


@pytest.mark.parametrize(
    ("mine", "theirs", "better"),
    [
        ((0.5, 1e-3), (0.6, 1e-3), True),
        ((0.5, 1e-3), (0.5, 2e-3), True),
        ((0.5, 1e-3), (0.6, 2e-3), True),
        ((0.5, 1e-3), (0.5, 1e-3), False),
        ((0.5, 2e-3), (0.6, 1e-3), False),
        ((0.6, 1e-3), (0.5, 2e-3), False),
        ((0.6, 2e-3), (0.5, 1e-3), False),
    ],
)
def test_version_beats_another_if_better_in_one_and_worse_in_none(
    mine: tuple[float, float], theirs: tuple[float, float], better: bool
) -> None:
    assert version(*mine).beats(version(*theirs)) is better


def test_champion_moves_only_to_a_better_version(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(600, 1e-3)).aliases == (CHAMPION,)
    assert add(client, run, measured(500, 2e-3)).aliases == ()
    assert add(client, run, measured(600, 2e-3)).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 1
    assert add(client, run, measured(550, 1e-3)).aliases == (CHAMPION,)
    assert resolve(client, NAME, CHAMPION).version == 4
    assert [version.version for version in list_versions(client)] == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("condition", "value"),
    [("weights_sha256", "b" * 64), ("guidance", "1.5 beyond"), ("protocol", "frontier/1 images=512")],
)
def test_version_beats_none_that_was_measured_under_other_conditions(condition: str, value: object) -> None:
    better, champion = version(0.5, 1e-4), version(0.6, 1e-3)
    assert better.beats(champion)
    for other in (
        replace(better, **{condition: value}).shortfall(champion),
        better.shortfall(replace(champion, **{condition: value})),
    ):
        assert other is not None
        assert condition in other


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"guidance": Guidance(scale=1.0)}, "guidance is 1 standard, version 1's is 1.5 standard"),
        ({"protocol": "frontier/1 images=2"}, "protocol is frontier/1 images=2, version 1's is frontier/1 images=8"),
        ({"mse": 2e-3}, "error 0.002, version 1 has compute share 0.6 and error 0.001"),
    ],
)
def test_why_the_champion_stays_is_told(
    client: MlflowClient, run: TrackedRun, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], named: str
) -> None:
    add(client, run, measured(600, 1e-3))
    with caplog.at_level(logging.WARNING):
        assert add(client, run, measured(**({"cached": 500, "mse": 1e-4} | changes))).aliases == ()
    assert f"{NAME} version 2 does not become champion: " in caplog.text
    assert named in caplog.text
    assert resolve(client, NAME, CHAMPION).version == 1


def test_champion_that_is_registered_again_is_no_news(
    client: MlflowClient, run: TrackedRun, caplog: pytest.LogCaptureFixture
) -> None:
    add(client, run, measured())
    with caplog.at_level(logging.WARNING, logger="l2c_ray"):
        assert add(client, run, measured()).aliases == (CHAMPION,)
    assert "champion" not in caplog.text


def test_other_weights_take_nothing_from_the_embedded_models_champion(
    client: MlflowClient, run: TrackedRun, half: Schedule
) -> None:
    embedded = add(client, run, half)
    other = half.model.model_copy(update={"weights_sha256": "1a2b3c4d" + "0" * 56})
    better = Quality(protocol="test", metrics={"mse": 1e-9})
    add(client, run, Schedule.create(other, half.sampler, half.table, half.provenance, half.cost, better))
    assert resolve(client, "digits-dit-ddim-4", CHAMPION) == embedded
    assert resolve(client, "digits-dit-1a2b3c4d-ddim-4", CHAMPION).mse == 1e-9


def test_version_that_is_not_worth_serving_never_becomes_champion(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(600, 1e-3), worth_serving=False).aliases == ()
    with pytest.raises(RegistryError):
        resolve(client, NAME, CHAMPION)
    add(client, run, measured(500, 1e-3))
    assert add(client, run, measured(400, 1e-4), worth_serving=False).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 2


def test_registering_an_old_version_again_keeps_a_better_champion(client: MlflowClient, run: TrackedRun) -> None:
    add(client, run, measured(600, 1e-3))
    add(client, run, measured(550, 1e-3))
    assert add(client, run, measured(600, 1e-3)).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 2


def test_champion_stays_when_the_server_cannot_say_who_it_is(
    client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MlflowException("try later", error_code=TEMPORARILY_UNAVAILABLE)

    add(client, run, measured(500, 1e-3))
    with monkeypatch.context() as patch:
        patch.setattr(client, "get_model_version_by_alias", fail)
        with pytest.raises((L2CError, MlflowException)):
            add(client, run, measured(600, 2e-3))
    assert resolve(client, NAME, CHAMPION).version == 1


def test_version_of_others_that_is_champion_stays_so_and_that_is_told(
    client: MlflowClient, run: TrackedRun, caplog: pytest.LogCaptureFixture
) -> None:
    add(client, run, measured())
    foreign = add_foreign(client, run, NAME)
    client.set_registered_model_alias(NAME, CHAMPION, str(foreign))
    with caplog.at_level(logging.WARNING):
        assert add(client, run, measured(cached=500)).aliases == ()
    assert f"models:/{NAME}/{foreign}" in caplog.text
    assert client.get_model_version_by_alias(NAME, CHAMPION).version == foreign
