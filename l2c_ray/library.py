"""Functions for Python users, which call what the commands of the same names call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.policies.rules import RULES, chosen_rules, parse_rule, provenance
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.distributed.learn import LearnResult
    from l2c_ray.evaluation.comparison import Comparison
    from l2c_ray.evaluation.frontier import Measurement
    from l2c_ray.registry.versions import RegisteredVersion


def load_schedule(given: Path | str, pipeline: Pipeline | None = None) -> Schedule:
    """The schedule in a file, or with a pipeline also the registered one that has the alias `given`.

    Args:
        pipeline: refuses a schedule that was made for another model or sampler.

    Raises:
        ScheduleError: the file is no schedule, or was changed, or does not fit the pipeline.
        StorageError: the file cannot be read.
        RegistryError: no version has the alias.

    >>> import l2c_ray
    >>> schedule = l2c_ray.load_schedule("l2c_ray/evaluation/embedded/schedules/digits-dit-ddim-20/learned-0.499.json")
    >>> f"{schedule.compute_share:.3f}"
    '0.499'
    """
    if pipeline is None:
        return Schedule.from_json(read_text(Path(given)), source=str(given))
    from l2c_ray.cli.inputs import find_schedule

    return find_schedule(str(given), pipeline)


def schedule_by_rule(rule: str, pipeline: Pipeline) -> Schedule:
    """The schedule that a static rule makes for a pipeline, with its cost counted.

    Args:
        rule: a name of `RULES` with its settings, as `l2c compare --policies` takes it.

    Raises:
        ConfigError: there is no such rule, or a setting is unknown, missing or out of range.

    >>> import l2c_ray
    >>> schedule = l2c_ray.schedule_by_rule("fixed-interval:interval=4", l2c_ray.Pipeline.load("digits-dit"))
    >>> [row[0] for row in schedule.table.compute]
    [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    """
    from l2c_ray.errors import ConfigError
    from l2c_ray.evaluation.cost import make_schedule

    name, settings = parse_rule(rule)
    if name not in RULES:
        raise ConfigError("policy", f"{name} decides while it samples", f"take one of {', '.join(RULES)}")
    return make_schedule(pipeline, RULES[name].make(pipeline, settings), provenance(name, settings))


def learn(config: Path | str, *overrides: str) -> LearnResult:
    """Learns, measures and registers schedules on the Ray cluster at `$RAY_ADDRESS`, or on one started here.

    Args:
        config: a TOML file, see jobs/README.md.
        overrides: `section.key=value`.

    Raises:
        InvalidInputError: a key of the config, or what it names, is at fault.
        UnreachableError: the tracking server or the cluster does not answer.
        LearningError: learning or measuring broke down.

    >>> import l2c_ray
    >>> result = l2c_ray.learn("jobs/configs/digits-budget.toml", "router.budget=0.4")  # doctest: +SKIP
    >>> result.schedules[0].compute_share  # doctest: +SKIP
    0.4
    """
    from l2c_ray.cli.loopback import keep_private_ray_on_loopback
    from l2c_ray.config.learn import LearnConfig
    from l2c_ray.storage import environment

    keep_private_ray_on_loopback()
    environment.normalize()
    from l2c_ray.distributed import learn as job

    read = LearnConfig.read(Path(config), overrides)
    return job.learn(read, on_start=lambda run: None, on_progress=lambda news: None, on_images=lambda made: None)


def compare(
    pipeline: Pipeline, schedules: Mapping[str, Schedule], policies: Sequence[str] = (), images: int = 512
) -> Comparison[Measurement]:
    """Measures schedules beside the baseline, fewer steps and rules by the frontier protocol, in this process.

    Args:
        schedules: by the names that their measurements get.
        policies: rules as `l2c compare --policies` takes them.
        images: number of images per candidate, at least 2.

    Raises:
        ConfigError: a rule or a setting of it does not exist.
        ScheduleError: a schedule was made for another model or sampler.

    >>> import l2c_ray
    >>> pipeline = l2c_ray.Pipeline.load("digits-dit")
    >>> schedule = l2c_ray.schedule_by_rule("taylor:interval=2,order=2", pipeline)
    >>> comparison = l2c_ray.compare(pipeline, {"taylor": schedule}, images=4)
    >>> taylor = comparison.schedules["taylor"]
    >>> taylor.mse < min(rival.mse for rival in comparison.rivals if rival.compute_share < taylor.compute_share)
    True
    """
    from l2c_ray.cli.comparing import measure_frontier
    from l2c_ray.evaluation.frontier import FIRST_SEED

    return measure_frontier(pipeline, dict(schedules), chosen_rules(policies), images, FIRST_SEED)


def register(pipeline: Pipeline, schedule: Schedule, run: str, images: int = 512) -> RegisteredVersion:
    """Measures a schedule and makes it a version in MLflow; champion if it beats fewer steps and the present champion.

    Args:
        run: name of the MLflow run that the version belongs to; made, or gone on with.
        images: number of images that the schedule and fewer steps are measured on.

    Raises:
        RegistryError: the name of the registered model is another program's.
        UnreachableError: the tracking server does not answer.

    >>> import l2c_ray
    >>> pipeline = l2c_ray.Pipeline.load("digits-dit")
    >>> schedule = l2c_ray.schedule_by_rule("taylor:interval=2,order=2", pipeline)
    >>> version = l2c_ray.register(pipeline, schedule, run="taylor", images=4)
    >>> (version.name, version.sha256 == l2c_ray.load_schedule("champion", pipeline).sha256)
    ('digits-dit-ddim-20', True)
    """
    from l2c_ray.distributed.stopping import ending
    from l2c_ray.evaluation.frontier import FIRST_SEED, beats_fewer_steps
    from l2c_ray.registry import registration, tracking, versions
    from l2c_ray.registry.lineage import Lineage

    client = tracking.connect()
    versions.require_ours(
        client, versions.model_name(pipeline.model.identity(), pipeline.solver.name, pipeline.solver.steps)
    )
    comparison = compare(pipeline, {"schedule": schedule}, images=images)
    measured = comparison.schedules["schedule"]
    settings = schedule.provenance.model_dump()
    tracked = tracking.TrackedRun(client, "l2c", run, settings)
    asked = registration.Registration(
        schedule=schedule.with_quality(measured.quality(images)),
        lineage=Lineage(run, tracked.id, settings, data="none", seeds={"first image measured": FIRST_SEED}),
        image_shape=pipeline.model.image_shape,
        metrics={"speedup": measured.speedup},
        samples=None,
        worth_serving=beats_fewer_steps(comparison, "schedule"),
    )
    with ending(tracked):
        return registration.register(client, asked)
