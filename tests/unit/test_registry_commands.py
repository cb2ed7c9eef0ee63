"""`l2c registry show, diff, promote, rollback, export` and `l2c drift` over a registry of their own."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from lineages import add, lineage
from mlflow import MlflowClient
from registry_factories import retrained_digits
from unit_factories import L2C, Refused, measured_schedule

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.candidates import baseline, scheduled
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import Sampler, measure
from l2c_ray.evaluation.plots import plot_samples
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry.aliases import history
from l2c_ray.registry.mutex import LOCK_PREFIX
from l2c_ray.registry.registration import CONFIG_FILE, HEATMAP_FILE, SAMPLES_FILE, Registration, register
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion, holder_of
from l2c_ray.schedule import Quality, Schedule

NAME = "digits-dit-ddim-4"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def truly_measured(digits_pipeline: Pipeline, half: Schedule) -> Schedule:
    """`half` with the error that it has on 16 images of the protocol."""
    candidates = Comparison(baseline(digits_pipeline), {"half": scheduled("half", half)})
    measured = measure(candidates, Sampler(digits_pipeline, 16), 16, 10, None, 16)
    return half.with_quality(measured.schedules["half"].quality(16))


@pytest.fixture
def first(client: MlflowClient, run: TrackedRun, truly_measured: Schedule) -> RegisteredVersion:
    return add(client, run, truly_measured, speedup=1.9)


@pytest.fixture
def second(client: MlflowClient, run: TrackedRun, first: RegisteredVersion, digits_pipeline: Pipeline) -> int:
    return add(client, run, measured_schedule(digits_pipeline, fixed_interval(4, 24, 3)), worth_serving=False).version


def asked(l2c: L2C, *arguments: object) -> Any:
    finished = l2c(*arguments, "--json")
    assert finished.code == 0, finished.err
    return json.loads(finished.out)


def test_version_tells_where_it_comes_from(
    client: MlflowClient, run: TrackedRun, truly_measured: Schedule, l2c: L2C
) -> None:
    whole = lineage(
        run,
        run="trial-7",
        study="s",
        trial=7,
        parent="b" * 64,
        data="digits, sha256 1",
        seeds={"learning": 3},
        config={"router": {"budget": [0.5]}},
    )
    asked_for = Registration(
        schedule=truly_measured,
        lineage=whole,
        image_shape=(1, 8, 8),
        metrics={"speedup": 1.9},
        samples=PNG,
        worth_serving=True,
    )
    registered = register(client, asked_for)
    told = asked(l2c, "registry", "show", f"{NAME}@champion")
    assert told["lineage"] == {
        "run": "trial-7",
        "study": "s",
        "trial": "7",
        "parent": "b" * 64,
        "data": "digits, sha256 1",
        "seeds": '{"learning": 3}',
        "commit": "unknown",
    }
    assert told["version"]["run_id"] == run.id
    assert told["metrics"] == {"speedup": 1.9, **truly_measured.quality.metrics}
    assert [(move["alias"], move["before"], move["after"]) for move in told["moves"]] == [("champion", None, 1)]
    assert told["schedule"]["sha256"] == truly_measured.sha256
    folder = Path(mlflow.artifacts.download_artifacts(registered.uri))
    assert json.loads((folder / CONFIG_FILE).read_text()) == {"router": {"budget": [0.5]}}
    assert (folder / SAMPLES_FILE).read_bytes() == PNG
    assert (folder / HEATMAP_FILE).read_bytes().startswith(PNG)


def test_show_tells_a_person_the_same(l2c: L2C, first: RegisteredVersion) -> None:
    finished = l2c("registry", "show", f"{NAME}/1")
    assert finished.code == 0
    for told in (first.uri, first.sha256, "lineage: seeds", "metric: speedup", "moved champion from no version to"):
        assert told in finished.out


@pytest.mark.usefixtures("second")
def test_diff_tells_units_by_step_and_kind_and_cost(l2c: L2C) -> None:
    told = asked(l2c, "registry", "diff", f"{NAME}@champion", f"{NAME}/2")
    # At an interval of 2 steps 0 and 2 are computed, at one of 3 steps 0 and 3.
    assert [(row["step"], row["kind"]) for row in told["units"]] == [
        (2, "attention"),
        (2, "mlp"),
        (3, "attention"),
        (3, "mlp"),
    ]
    assert [len(row["only_first"]) for row in told["units"]] == [12, 12, 0, 0]
    assert [len(row["only_second"]) for row in told["units"]] == [0, 0, 12, 12]
    assert told["units"][0]["only_first"][0].endswith(".attention")
    assert told["compute_share"][0] == told["compute_share"][1]
    assert told["metrics"]["mse"][1] == 1e-3
    assert told["metrics"]["psnr"][1] is None
    assert "units that only one of them computes" in l2c("registry", "diff", f"{NAME}/1", f"{NAME}/2").out
    assert asked(l2c, "registry", "diff", f"{NAME}/1", f"{NAME}/1")["units"] == []


def test_export_writes_the_schedule(
    l2c: L2C, first: RegisteredVersion, truly_measured: Schedule, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "schedule.json"
    assert l2c("registry", "export", f"{NAME}@champion", "-o", path).code == 0
    assert path.read_text() == truly_measured.to_json()
    assert l2c("registry", "export", first.uri).out == truly_measured.to_json()


@pytest.mark.parametrize("reference", ["", NAME, f"{NAME}@", f"{NAME}/x", f"{NAME}/1/2", f"@{NAME}", "a b@c"])
def test_what_is_no_version_is_refused_with_the_way_to_write_one(
    refused: Refused, registry_home: Path, reference: str
) -> None:
    assert "write NAME@ALIAS or NAME/VERSION" in refused("registry", "show", reference)


def test_version_that_is_not_there_is_refused(refused: Refused, first: RegisteredVersion) -> None:
    assert f"{NAME}@fast: is not in the registry" in refused("registry", "show", f"{NAME}@fast")
    assert f"models:/{NAME}/7: is not in the registry" in refused("registry", "export", f"{NAME}/7")


def test_rollback_takes_the_last_move_back(l2c: L2C, client: MlflowClient, first: RegisteredVersion) -> None:
    told = asked(l2c, "registry", "rollback", NAME, "--alias", "champion", "--why", "too slow")
    assert (told["before"], told["after"], told["why"]) == (1, None, "rollback: too slow")
    assert holder_of(client, NAME, "champion") is None
    assert len(history(client, NAME)) == 2
    assert "from no version to version 1" in l2c("registry", "rollback", NAME, "--alias", "champion").out


def test_rollback_of_an_alias_that_never_moved_is_refused(refused: Refused, first: RegisteredVersion) -> None:
    assert "was never moved" in refused("registry", "rollback", NAME, "--alias", "fast")
    assert "is not in the registry" in refused("registry", "rollback", "none", "--alias", "fast")


def test_list_shows_no_locks(l2c: L2C, client: MlflowClient, first: RegisteredVersion) -> None:
    client.create_registered_model(LOCK_PREFIX + NAME)
    assert {row["name"] for row in asked(l2c, "registry", "list")} == {NAME}
    assert LOCK_PREFIX not in l2c("registry", "list").out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([NAME, 1, "--alias", "fast"], "promotion.why in the command line: is missing"),
        (["--why", "x"], "promotion.name"),
        ([NAME, 1, "--why", "x", "--alias", "latest"], "keeps for itself"),
        ([NAME, 1, "--why", "x", "--alias", "a b"], "promotion.alias"),
        ([NAME, 0, "--why", "x"], "promotion.version"),
        ([NAME, 9, "--why", "x", "--alias", "fast"], f"models:/{NAME}/9"),
        (["none", "--why", "x"], "none: no version of it is chosen"),
        ([NAME, 1, "--why", "x", "--set", "gate.max_eror=1"], "did you mean max_error"),
        ([NAME, 1, "--why", "x", "--set", "gate.images=3"], "gate.images"),
    ],
)
def test_promotion_that_cannot_be_meant_is_refused_before_anything_starts(
    refused: Refused, first: RegisteredVersion, arguments: list[object], named: str
) -> None:
    assert named in refused("registry", "promote", *arguments)


def test_version_that_has_the_alias_already_is_not_measured(l2c: L2C, first: RegisteredVersion) -> None:
    told = asked(l2c, "registry", "promote", NAME, 1, "--alias", "champion", "--why", "again")
    assert told == {"verdicts": [], "moves": []}


def test_schedule_that_does_what_its_version_says_has_not_drifted(l2c: L2C, first: RegisteredVersion) -> None:
    told = asked(l2c, "drift", f"{NAME}@champion")
    assert [(check["name"], check["passed"]) for check in told["checks"]] == [
        ("weights", True),
        ("sampler", True),
        ("error", True),
        ("skips", True),
    ]
    estimate, low, high = (told["checks"][2]["interval"][part] for part in ("estimate", "low", "high"))
    assert estimate == pytest.approx(first.mse, rel=1e-3)
    assert low < estimate < high


def test_schedule_with_more_error_than_its_version_says_has_drifted(
    l2c: L2C, client: MlflowClient, run: TrackedRun, half: Schedule
) -> None:
    add(client, run, half.with_quality(Quality(protocol="frontier/1 images=8", metrics={"mse": 1e-5})))
    finished = l2c("drift", f"{NAME}@champion", "--json")
    assert finished.code == 3
    (failed,) = [check for check in json.loads(finished.out)["checks"] if not check["passed"]]
    assert failed["name"] == "error"
    line = finished.err.splitlines()[-1]
    assert line.startswith(f"error: models:/{NAME}/1: no longer holds: error ")
    assert "the version says 1e-05" in line


def test_schedule_whose_file_was_changed_has_drifted(
    l2c: L2C, first: RegisteredVersion, registry_home: Path, half: Schedule
) -> None:
    (path,) = registry_home.rglob("schedule.json")
    whole = path.read_text()
    for changed in (half.to_json(), whole.replace('"number":2', '"number":3')):
        assert changed != whole
        path.write_text(changed)
        finished = l2c("drift", f"{NAME}@champion")
        assert finished.code == 3
        assert "no longer holds: schedule" in finished.err


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_damaged_version_fails_the_gate_and_moves_nothing(
    l2c: L2C, client: MlflowClient, first: RegisteredVersion, registry_home: Path, half: Schedule, damage: str
) -> None:
    (path,) = registry_home.rglob("schedule.json")
    path.write_text(half.to_json() if damage == "another" else path.read_text()[:-100])
    before = history(client, NAME)
    finished = l2c("registry", "promote", NAME, 1, "--alias", "fast", "--why", "a try", "--json")
    assert finished.code == 3
    assert finished.err.splitlines()[-1].startswith(
        f"error: gate: {NAME} version 1 for fast: artifact models:/{NAME}/1"
    )
    assert history(client, NAME) == before
    assert not json.loads(client.get_model_version(NAME, "1").tags["gate.fast"])["passed"]


def test_schedule_for_other_weights_has_drifted_and_is_measured_with_them(
    l2c: L2C, first: RegisteredVersion, tmp_path: Path
) -> None:
    folder = retrained_digits(tmp_path / "retrained")
    finished = l2c("drift", f"{NAME}@champion", "--checkpoint", folder, "--images", 4, "--json")
    assert finished.code == 3
    found = {check["name"]: check for check in json.loads(finished.out)["checks"]}
    assert not found["weights"]["passed"]
    assert found["skips"]["passed"]
    assert found["error"]["interval"]["estimate"] != pytest.approx(first.mse, rel=1e-3)


def test_grid_of_samples_has_a_picture_for_each_schedule(digits_pipeline: Pipeline, half: Schedule) -> None:
    sampler = Sampler(digits_pipeline, 8)
    candidates = Comparison(baseline(digits_pipeline), {"half": scheduled("half", half)})
    first, again = (plot_samples(candidates, sampler, 10) for _ in range(2))
    assert first == again
    assert {name: picture.startswith(PNG) for name, picture in first.items()} == {"half": True}


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("gate.fast", "{"),
        ("gate.fast", '{"passed": true, "when": "then", "checks": [{"name": "error"}]}'),
        ("gate.fast", '{"passed": 1}'),
        ("metric.speedup", "twice"),
        ("metric.speedup", ""),
    ],
)
def test_damaged_tag_is_left_out_of_what_is_told(
    l2c: L2C, client: MlflowClient, first: RegisteredVersion, tag: str, value: str
) -> None:
    client.set_model_version_tag(NAME, "1", tag, value)
    told = asked(l2c, "registry", "show", f"{NAME}/1")
    assert told["gates"] == {}
    assert told["metrics"].get("speedup") == (None if tag == "metric.speedup" else 1.9)
    assert first.uri in l2c("registry", "show", f"{NAME}/1").out
