"""Moves of aliases: what they leave behind, and that one of two at once wins."""

import re
from datetime import UTC, datetime

import alias_mover
import pytest
from clocks import Clock
from hypothesis import given
from lineages import add
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mutations import fuzzed, mutated
from real_cluster import PATIENCE
from registry_factories import NAME, measured

from l2c_ray.distributed.promotion import Proposal, Verdict, move_aliases
from l2c_ray.errors import ConflictError, RegistryError, UnreachableError
from l2c_ray.evaluation.gate import Check
from l2c_ray.registry import mutex
from l2c_ray.registry.aliases import history, move_alias, roll_back
from l2c_ray.registry.audit import WHO_VARIABLE, AliasMove, moves_of, next_number, withdrawn
from l2c_ray.registry.mutex import LOCK_PREFIX, exclusive
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import get_version, holder_of, list_versions

LOCK = LOCK_PREFIX + NAME


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which this process's leases run out."""
    passing = Clock()
    monkeypatch.setattr(mutex, "time", passing)
    return passing


@pytest.fixture
def versions(client: MlflowClient, run: TrackedRun) -> list[int]:
    """Three versions of one model; the first is champion."""
    return [add(client, run, measured(cached, 1e-3), worth_serving=cached == 600).version for cached in (600, 500, 400)]


def move(client: MlflowClient, to: int | None, expected: int | None, alias: str = "fast", why: str = "") -> AliasMove:
    return move_alias(client, NAME, alias, to, expected=expected, why=why)


@pytest.mark.usefixtures("versions")
def test_moves_can_be_read_back_from_the_registry(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    began = datetime.now(UTC)
    move(client, 2, None, why="a third of the compute")
    monkeypatch.setenv(WHO_VARIABLE, "ci")
    move(client, 3, 2, why='better, "really"')
    roll_back(client, NAME, "fast", "it was not")
    ours = [each for each in history(client, NAME) if each.alias == "fast"]
    assert [(each.before, each.after, each.why) for each in ours] == [
        (None, 2, "a third of the compute"),
        (2, 3, 'better, "really"'),
        (3, 2, "rollback: it was not"),
    ]
    assert re.fullmatch(r"\S+@\S+", ours[0].who)
    assert [each.who for each in ours[1:]] == ["ci", "ci"]
    times = [datetime.fromisoformat(each.when) for each in ours]
    assert times == sorted(times)
    assert all(each.utcoffset() == UTC.utcoffset(None) for each in times)
    assert (times[0] - began).total_seconds() > -1
    assert holder_of(client, NAME, "fast") == 2


@pytest.mark.usefixtures("versions")
def test_reason_of_any_length_and_script_fits_into_a_tag(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHO_VARIABLE, "\x01" * 3000)
    _, tag = move(client, 2, None, why="ж\x01" * 3000).tag
    assert len(tag) <= 5000
    assert "ж" in tag


@pytest.mark.usefixtures("versions")
def test_failed_verdict_keeps_its_own_alias_and_moves_no_other_back(client: MlflowClient) -> None:
    verdicts = [
        Verdict(Proposal(alias, get_version(client, NAME, number), None), [Check("error", passed, "is 1e-3")])
        for alias, number, passed in (("quality", 1, True), ("balanced", 2, False), ("fast", 3, True))
    ]
    moves: list[AliasMove] = []
    move_aliases(client, verdicts, "a search", moves.append)
    assert [(each.alias, each.before, each.after, each.why) for each in moves] == [
        ("quality", None, 1, "a search"),
        ("fast", None, 3, "a search"),
    ]
    assert [holder_of(client, NAME, alias) for alias in ("quality", "balanced", "fast")] == [1, None, 3]
    assert verdicts[1].failure == f"{NAME} version 2 for balanced: error is 1e-3"


@pytest.mark.usefixtures("versions")
def test_champion_that_registering_makes_has_a_history_too(client: MlflowClient) -> None:
    (only,) = history(client, NAME)
    assert (only.alias, only.before, only.after, only.why) == ("champion", None, 1, "the first version worth serving")


def test_version_that_was_rolled_back_is_champion_again_by_name_alone(client: MlflowClient, run: TrackedRun) -> None:
    for error in (1e-3, 1e-4):
        add(client, run, measured(600, error))
    roll_back(client, NAME, "champion", "looks worse")
    assert holder_of(client, NAME, "champion") == 1
    assert withdrawn(history(client, NAME)) == {"champion": {2}}
    assert add(client, run, measured(600, 1e-4)).aliases == ()
    move_alias(client, NAME, "champion", 2, expected=1, why="it does not")
    assert withdrawn(history(client, NAME)) == {"champion": set()}
    roll_back(client, NAME, "champion", "it does")
    roll_back(client, NAME, "champion", "a mistake")
    assert (holder_of(client, NAME, "champion"), withdrawn(history(client, NAME))) == (2, {"champion": {1}})


def test_version_that_was_chosen_by_its_measurement_is_left_to_the_gate(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(600, 1e-3), chosen=True).aliases == ()
    assert holder_of(client, NAME, "champion") is None


@pytest.mark.usefixtures("versions")
def test_move_that_was_decided_on_another_state_changes_nothing(client: MlflowClient) -> None:
    move(client, 2, None)
    before = history(client, NAME)
    with pytest.raises(ConflictError, match="is at version 2 and no longer at version 3") as caught:
        move(client, 1, 3)
    assert caught.value.exit_code == 1
    assert holder_of(client, NAME, "fast") == 2
    assert history(client, NAME) == before


@pytest.mark.usefixtures("versions")
def test_move_to_a_version_that_is_not_there_changes_nothing(client: MlflowClient) -> None:
    with pytest.raises(RegistryError, match=f"models:/{NAME}/9"):
        move(client, 9, None)
    assert holder_of(client, NAME, "fast") is None
    assert [each.alias for each in history(client, NAME)] == ["champion"]


@pytest.mark.usefixtures("versions")
def test_move_that_the_registry_refuses_leaves_no_record(client: MlflowClient) -> None:
    with pytest.raises(UnreachableError, match="Invalid alias"):
        move(client, 2, None, alias="a b")
    assert [each.alias for each in history(client, NAME)] == ["champion"]
    # And no lock.
    move(client, 2, None)


@pytest.mark.usefixtures("versions")
def test_move_whose_answer_is_lost_keeps_its_record(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    done = client.set_registered_model_alias

    def lose_the_answer(*arguments: str) -> None:
        done(*arguments)
        raise MlflowException("connection reset")

    monkeypatch.setattr(client, "set_registered_model_alias", lose_the_answer)
    with pytest.raises(UnreachableError):
        move(client, 2, None)
    assert holder_of(client, NAME, "fast") == 2
    assert [each.after for each in history(client, NAME) if each.alias == "fast"] == [2]


@pytest.mark.usefixtures("versions")
def test_rollback_of_a_first_move_removes_the_alias_and_can_be_undone(client: MlflowClient) -> None:
    move(client, 2, None)
    assert roll_back(client, NAME, "fast", "").after is None
    assert holder_of(client, NAME, "fast") is None
    assert roll_back(client, NAME, "fast", "").after == 2
    assert holder_of(client, NAME, "fast") == 2


@pytest.mark.usefixtures("versions")
def test_rollback_is_refused_where_the_last_move_is_unknown(client: MlflowClient) -> None:
    with pytest.raises(RegistryError, match="was never moved"):
        roll_back(client, NAME, "fast", "")
    move(client, 2, None)
    client.set_registered_model_alias(NAME, "fast", "3")
    with pytest.raises(RegistryError, match="is at version 3, but its last recorded move was to version 2"):
        roll_back(client, NAME, "fast", "")
    assert holder_of(client, NAME, "fast") == 3


@pytest.mark.usefixtures("versions")
def test_one_of_two_processes_that_move_at_once_wins(client: MlflowClient) -> None:
    movers = [alias_mover.start("move", NAME, "champion", to, 1) for to in (2, 3)]
    outcomes = alias_mover.go(*movers)
    assert [mover.wait(PATIENCE) for mover in movers] == [0, 0]
    assert sorted(outcomes) == ["ConflictError", "moved"]
    last = history(client, NAME)[-1]
    assert (last.before, last.after) == (1, 2 if outcomes[0] == "moved" else 3)
    assert [each.number for each in history(client, NAME)] == [1, 2]
    assert holder_of(client, NAME, "champion") == last.after
    assert [model.name for model in client.search_registered_models()] == [NAME]


@pytest.mark.usefixtures("versions")
def test_compare_set_and_read_again_on_tags_lets_two_processes_win() -> None:
    first, second = (alias_mover.start("claim", NAME, token) for token in ("first", "second"))
    assert alias_mover.go(first, second) == ["free", "free"]
    assert [alias_mover.go_on(process) for process in (first, second)] == ["won", "won"]
    assert [process.wait(PATIENCE) for process in (first, second)] == [0, 0]


@pytest.mark.usefixtures("versions")
def test_lock_that_a_process_left_behind_is_broken_after_its_lease(client: MlflowClient, clock: Clock) -> None:
    client.create_registered_model(LOCK, description='{"token": "dead", "who": "me@there"}')
    assert {version.name for version in list_versions(client)} == {NAME}
    begun = clock.now
    with exclusive(client, NAME, lease_seconds=30.0):
        assert clock.now - begun > 30.0
    # The name of the lock is free, and what is left tells of the dead.
    left = [model for model in client.search_registered_models() if model.name.startswith(LOCK_PREFIX)]
    assert [model.name for model in left] == [f"{LOCK}.broken.dead"]
    assert "me@there" in left[0].description


@pytest.mark.usefixtures("versions")
def test_lock_that_a_dead_process_left_is_broken_by_one_of_two_that_wait(client: MlflowClient) -> None:
    client.create_registered_model(LOCK, description='{"token": "dead"}')
    client.rename_registered_model(LOCK, f"{LOCK}.broken.dead")
    client.create_registered_model(LOCK, description='{"token": "next"}')
    # A second that still believes in the dead token finds the name after it taken, and breaks nobody's lock.
    with pytest.raises(MlflowException) as caught:
        client.rename_registered_model(LOCK, f"{LOCK}.broken.dead")
    assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"
    assert "next" in client.get_registered_model(LOCK).description


@pytest.mark.usefixtures("versions")
def test_delayed_holder_neither_writes_nor_releases_the_next_lock(client: MlflowClient, clock: Clock) -> None:
    with exclusive(client, NAME, lease_seconds=30.0) as held:
        held.require()
        clock.sleep(16.0)
        with pytest.raises(ConflictError, match="held for too long"):
            held.require()
        client.rename_registered_model(LOCK, f"{LOCK}.broken.x")
        client.create_registered_model(LOCK, description='{"token": "next"}')
    assert "next" in client.get_registered_model(LOCK).description


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("l2c.move.000002", "{"),
        ("l2c.move.000002", "[1, 2]"),
        ("l2c.move.000002", '{"alias": "fast"}'),
        ("l2c.move.000002", '{"alias": "fast", "before": "1", "after": 2, "who": "x", "when": "y", "why": "z"}'),
        ("l2c.move.000002", "[" * 2000),
        ("l2c.move.000004", "{}"),
        ("l2c.move.999999999999", "{"),
        ("l2c.move.second", "{}"),
        ("l2c.move.", "{}"),
    ],
)
def test_damaged_record_of_a_move_is_named_once_and_blocks_nothing(
    client: MlflowClient, caplog: pytest.LogCaptureFixture, key: str, value: str
) -> None:
    client.set_registered_model_tag(NAME, key, value)
    move(client, 2, None)
    move(client, 3, 2)
    assert roll_back(client, NAME, "fast", "").after == 2
    assert [each.after for each in history(client, NAME) if each.alias == "fast"] == [2, 3, 2]
    assert client.get_registered_model(NAME).tags[key] == value
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{NAME}: its tag {key} is no record of l2c_ray and is passed over")


def test_number_of_a_move_leaves_room_for_the_next_and_takes_no_tag() -> None:
    recorded = [_recorded(number) for number in (1, 2, 10**12 - 1)]
    model = RegisteredModel(NAME, tags=[*recorded, RegisteredModelTag("l2c.move.000003", "{")])
    assert next_number(model) == 4
    assert next_number(RegisteredModel(NAME, tags=[])) == 1


def _recorded(number: int) -> RegisteredModelTag:
    return RegisteredModelTag(*AliasMove(number, "fast", None, 2, "me@there", "2026-01-01T00:00:00+00:00", "why").tag)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (
            "l2c.move.000004",
            r'{"alias":"a","before":1,"after":2,"who":"me","when":"x","why":"y","\u001b[31mX\nerror: gone":1}',
        ),
        ("l2c.move." + "x" * 50_000, "{}"),
        ("l2c.move.\x1b[31m\nerror: gone", "{}"),
    ],
)
def test_damaged_record_is_told_of_in_one_bounded_line(caplog: pytest.LogCaptureFixture, key: str, value: str) -> None:
    assert moves_of(RegisteredModel(NAME, tags=[RegisteredModelTag(key, value)])) == []
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 1500


@fuzzed
@given(mutated(AliasMove(3, "fast", None, 2, "me@there", "2026-01-01T00:00:00+00:00", "why").tag[1].encode()))
def test_record_of_a_move_is_a_move_or_passed_over(value: bytes) -> None:
    model = RegisteredModel(NAME, tags=[RegisteredModelTag("l2c.move.000003", value.decode(errors="replace"))])
    for each in moves_of(model):
        assert (each.number, type(each.alias), type(each.why)) == (3, str, str)


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("description", ['{"token": "a/b:c"}', "", "{", '{"token": 3}'])
def test_lock_whose_token_is_no_name_is_broken_again_and_again(client: MlflowClient, description: str) -> None:
    for _ in range(2):
        client.create_registered_model(LOCK, description=description)
        with exclusive(client, NAME, lease_seconds=0.2):
            pass
    left = [model.name for model in client.search_registered_models() if model.name.startswith(LOCK)]
    assert len(left) == 2
