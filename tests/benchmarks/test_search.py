"""Cost of a study beside its trials, its scaling, and its results beside random search and evolution over bits.

The last one gives each method the same time, for each seed; `L2C_SEARCH_SECONDS` and `L2C_SEARCH_ITERATIONS` make it
longer.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from optuna.trial import TrialState
from real_cluster import REPOSITORY

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.search import SearchConfig
from l2c_ray.data import digits
from l2c_ray.distributed import cluster as ray_cluster
from l2c_ray.distributed.trial import Environment, TrialTask, run_trial
from l2c_ray.distributed.trials import RayTrials, RunTrial
from l2c_ray.evaluation.candidates import baseline, scheduled
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import RememberingSampler, Sampler, measure
from l2c_ray.schedule import Provenance, Schedule, Table
from l2c_ray.search.driver import drive
from l2c_ray.search.frontier import finished_trials
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Result, ScheduleMeasurement
from l2c_ray.search.space import make_space
from l2c_ray.search.storage import StudyStorage
from l2c_ray.search.study import StudyObjective, open_study

CONFIG = REPOSITORY / "jobs" / "configs" / "digits-lambda-search.toml"
TRIVIAL_TRIALS = 300
LEAST_TRIALS_A_SECOND = 15
LEAST_SPEEDUP = 1.8
SEEDS = 3
SECONDS = float(os.environ.get("L2C_SEARCH_SECONDS", "100"))
ITERATIONS = int(os.environ.get("L2C_SEARCH_ITERATIONS", "30"))
FEW_IMAGES = ("learn.evaluation.images=64",)
QUICK = (f"learn.training.iterations={ITERATIONS}", "learn.router.initial_logit=0.5", *FEW_IMAGES)
"""Logits that begin near the threshold, since they have not long to get there."""
LEAST_VOLUME = {"random search": 0.95, "NSGA-II over bits": 1.0}
"""Least hypervolume relative to each. In a few minutes a sampler learns little: it should not lose to random search."""
TRIALS = 24
"""More than there is time for; the first six are drawn at random."""
REFERENCE = (1.0, 1e-2)
"""The worst corner for the hypervolume: the baseline's cost, and an error that is no use."""


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the studies' trials. The one Ray on the machine is this process's own."""
    home = tmp_path_factory.mktemp("home")
    os.environ["L2C_HOME"] = str(home)
    # Workers do not find this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray_cluster.connect()
    yield home / "runs"
    ray.shutdown()


def test_driver_hands_out_many_trials_a_second(place: Path) -> None:
    config = read(
        "study.parallel=4", f"study.trials={TRIVIAL_TRIALS}", "study.sampler='random'", "study.cpus_per_trial=0.5"
    )
    # Long enough for all four workers to have been started: what counts is the driver.
    run(config, "warm-up", place, sleepy, trials=12)
    start = time.perf_counter()
    study = run(config, "trivial", place, trivial)
    rate = TRIVIAL_TRIALS / (time.perf_counter() - start)
    print(f"\n{rate:.1f} trivial trials a second with 4 in flight")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIVIAL_TRIALS
    assert rate >= LEAST_TRIALS_A_SECOND


def test_two_trials_side_by_side_are_almost_twice_as_many_an_hour(place: Path) -> None:
    rates = []
    for parallel in (1, 2):
        config = read(f"study.parallel={parallel}", "study.trials=4", "learn.training.iterations=150", "derive={}")
        run(config, f"warm-up-{parallel}", place, trials=2)
        start = time.perf_counter()
        run(config, f"side-by-side-{parallel}", place)
        rates.append(3600 * 4 / (time.perf_counter() - start))
        print(f"\n{rates[-1]:.0f} trials an hour, {parallel} at a time")
    print(f"{rates[1] / rates[0]:.2f} times as many")
    assert rates[1] >= LEAST_SPEEDUP * rates[0]


def test_hypervolume_beside_random_search_and_evolution_over_bits(place: Path) -> None:
    ratios: list[tuple[float, float]] = []
    for seed in range(SEEDS):
        ours, random = (found_by(sampler, seed, place) for sampler in ("tpe", "random"))
        bits = found_by_evolution_of_bits(seed)
        ratios.append((ours / random, ours / bits))
        print(
            f"\nseed {seed}: hypervolume {ours:.4f}, of random search {random:.4f}, of NSGA-II over bits {bits:.4f}, "
            f"each after {SECONDS:.0f} s"
        )
    for other, of_seeds in zip(("random search", "NSGA-II over bits"), zip(*ratios, strict=True), strict=True):
        spread = f"{min(of_seeds):.3f} to {max(of_seeds):.3f}"
        print(f"{statistics.median(of_seeds):.3f} times that of {other} ({spread})")
        assert statistics.median(of_seeds) > LEAST_VOLUME[other]


def found_by(sampler: str, seed: int, place: Path) -> float:
    """The hypervolume of what a study has found when the time is up."""
    own = (f"study.sampler='{sampler}'", f"study.seed={seed}", f"learn.run.seed={seed}", f"study.trials={TRIALS}")
    config = read(*own, *QUICK)
    study = run(config, f"volume-{sampler}-{seed}", place, seconds=SECONDS)
    trials = finished_trials(study, StudyObjective(config.objective))
    return hypervolume([(trial.cost, trial.measurement.mse) for trial in trials])


def trivial(task: TrialTask, monitor: Any, environment: Environment) -> Result:
    value = float(task.spec.params["router.lambda"])
    return Result("finished", measurements=(ScheduleMeasurement({}, value, 1 - value, 0.0, "", ""),))


def sleepy(task: TrialTask, monitor: Any, environment: Environment) -> Result:
    time.sleep(2)
    return trivial(task, monitor, environment)


class TimeIsUpError(Exception):
    pass


def run(
    config: SearchConfig,
    name: str,
    place: Path,
    task: RunTrial = run_trial,
    trials: int | None = None,
    seconds: float = math.inf,
) -> optuna.Study:
    deadline = time.perf_counter() + seconds

    def check() -> None:
        if time.perf_counter() > deadline:
            raise TimeIsUpError

    storage = StudyStorage(name)
    study = open_study(config, name, storage)
    settings, objective = config.study, StudyObjective(config.objective)
    wanted = trials or settings.trials
    ledger = Ledger(study, storage, name, make_space(config.space), objective, wanted, 60, 0)
    with suppress(TimeIsUpError), RayTrials(config, name, str(place / name), task) as executor:
        drive(ledger, executor, settings.parallel, 1, None, False, lambda result: None, check)
    return study


def read(*overrides: str) -> SearchConfig:
    return SearchConfig.read(CONFIG, overrides)


def hypervolume(points: list[tuple[float, float]]) -> float:
    """The part of the box up to `REFERENCE` that some point beats, as a share of the box."""
    volume, best = 0.0, REFERENCE[1]
    for cost, error in sorted(points):
        if cost < REFERENCE[0] and error < best:
            volume += (REFERENCE[0] - cost) * (best - error)
            best = error
    return volume / (REFERENCE[0] * REFERENCE[1])


def found_by_evolution_of_bits(seed: int) -> float:
    """The hypervolume that plain NSGA-II comes to: one bit for every unit of every step but the first, each mask
    measured, nothing learned."""
    config = read(*FEW_IMAGES)
    base = config.learn_config(config.corners()[0])
    pipeline = Pipeline.from_config(base.model, base.sampler)
    # As trials do it: the baseline once.
    sampler = RememberingSampler(Sampler(pipeline, base.evaluation.batch_size))
    real, images = digits.images_to_judge(pipeline.model.image_shape), base.evaluation.images
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=optuna.samplers.NSGAIISampler(seed=seed, population_size=8)
    )
    points: list[tuple[float, float]] = []
    deadline = time.perf_counter() + SECONDS
    while time.perf_counter() < deadline:
        trial = study.ask()
        schedule = draw_mask(trial, pipeline)
        candidates = Comparison(baseline(pipeline), {"bits": scheduled("bits", schedule)})
        classes, batch_size = pipeline.model.num_classes, base.evaluation.batch_size
        measured = measure(candidates, sampler, images, classes, real, batch_size).schedules["bits"]
        points.append((measured.compute_share, measured.mse))
        study.tell(trial, points[-1])
    return hypervolume(points)


def draw_mask(trial: optuna.Trial, pipeline: Pipeline) -> Schedule:
    units, steps = len(pipeline.model.units), pipeline.solver.steps
    rows = [[trial.suggest_int(f"{step}.{unit}", 0, 1) for unit in range(units)] for step in range(1, steps)]
    table = Table.of(((1,) * units, *map(tuple, rows)))
    return make_schedule(pipeline, table, Provenance(policy="bits", settings={}))
