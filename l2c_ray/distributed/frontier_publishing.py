"""The last step of a search: its frontier measured beside its rivals, registered, and its tiers promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.promotion import PromotionConfig, PromotionSection
from l2c_ray.config.search import SearchConfig
from l2c_ray.data.training import open_training_images
from l2c_ray.distributed import cluster
from l2c_ray.distributed.measuring import MeasuredSchedules, measure_beside_rivals
from l2c_ray.distributed.promotion import examine, move_aliases
from l2c_ray.distributed.publishing import frontier_artifacts, make_registration
from l2c_ray.errors import ConflictError, IntegrityError, RegistryError, ScheduleError, SearchError, UnreachableError
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import FIRST_SEED, Measurement, OnImages
from l2c_ray.evaluation.plots import plot_schedule, plot_trials
from l2c_ray.learning.objectives import make_objective
from l2c_ray.logs import logger
from l2c_ray.registry.delivery import Results, deliver
from l2c_ray.registry.lineage import Lineage
from l2c_ray.registry.registration import HEATMAP_FILE, Registration
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import SCHEDULE_FILE, RegisteredVersion, get_version
from l2c_ray.schedule import Schedule
from l2c_ray.search.frontier import FinishedTrial, finished_trials, frontier
from l2c_ray.search.leases import ORIGIN, PARENT, REASON
from l2c_ray.search.results import WARM_FROM
from l2c_ray.search.study import StudyObjective
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.strict_json import lenient

if TYPE_CHECKING:
    import optuna
    from mlflow import MlflowClient

_log = logger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """Results of a finished study."""

    study: str
    mlflow_run_id: str
    trials: list[FinishedTrial]
    """All trials with a measured schedule."""
    frontier: list[FinishedTrial]
    """The trials on the Pareto frontier, cheapest first."""
    versions: list[RegisteredVersion]
    """The registered version of each trial on the frontier."""
    comparison: Comparison[Measurement]
    """The frontier's schedules beside fewer steps at the same compute and the fixed interval."""


@dataclass(frozen=True)
class FrontierPublisher:
    """Makes versions of a study's frontier.

    One driver at a time publishes; a second one measures again and finds the versions that the first one made.
    """

    config: SearchConfig
    base: LearnConfig
    """The settings that all trials share."""
    pipeline: Pipeline
    study: optuna.Study
    store: ObjectStore
    """Storage of the trials' schedules."""
    client: MlflowClient
    run: TrackedRun

    def publish(self, on_images: OnImages) -> SearchResult:
        """Measures and registers every schedule on the frontier, and moves the tiers that pass the gate.

        Args:
            on_images: called whenever images were made.

        Raises:
            SearchError: there is no schedule, or none within the limit.
            IntegrityError: a trial's schedule is not the one that was measured.
            UnreachableError: the tracking server does not answer; the results are kept in a file.
        """
        objective = StudyObjective(self.config.objective)
        trials = finished_trials(self.study, objective)
        best = frontier(trials)
        if not best:
            raise _nothing_found(self.study, trials)
        # As their trials wrote them: with the errors of another number of workers they might differ in the last digits,
        # and so be other versions.
        schedules = {_name_of(trial): self._schedule_of(trial) for trial in best}
        measured = measure_beside_rivals(self._measuring_config(), self.pipeline, schedules, on_images)
        results = Results(
            experiment=self.base.run.experiment,
            run=self.study.study_name,
            metrics={trial.number: {"cost": trial.cost, "mse": trial.measurement.mse} for trial in trials},
            artifacts={
                **self._trials_artifacts(trials, best, objective),
                **frontier_artifacts(measured),
                **_schedule_artifacts(best, schedules, measured),
            },
            registrations=[self._registration(trial, schedules[_name_of(trial)], measured) for trial in best],
        )
        versions = deliver(self.client, self.run, results)
        try:
            self._promote(versions[0].name, on_images)
            versions = [get_version(self.client, version.name, version.version) for version in versions]
        except UnreachableError as error:
            _log.warning("the versions are registered, but not all tiers are known to have moved: %s", error)
        return SearchResult(self.study.study_name, self.run.id, trials, best, versions, measured.comparison)

    def _measuring_config(self) -> LearnConfig:
        """The trials' shared settings with as many workers as all trials side by side had, which are idle now."""
        wanted = self.base.cluster
        more = cluster.with_more_workers(wanted, wanted.workers * self.config.study.parallel)
        return self.base.model_copy(update={"cluster": more})

    def _schedule_of(self, trial: FinishedTrial) -> Schedule:
        name = trial.measurement.schedule
        place = f"{self.store.address}/{name}"
        schedule = Schedule.from_json(self.store.get(name).decode(errors="replace"), source=place)
        if schedule.sha256 != trial.measurement.sha256:
            raise IntegrityError(place, f"is not the schedule that trial {trial.number} measured", "search anew")
        return schedule

    def _registration(self, trial: FinishedTrial, schedule: Schedule, measured: MeasuredSchedules) -> Registration:
        learned = self.config.learn_config(trial.params)
        lineage = Lineage(
            run=self.study.study_name,
            run_id=self.run.id,
            config=learned.model_dump(mode="json", by_alias=True),
            data=make_objective(learned).describe_data(open_training_images(learned)),
            seeds={"learning": learned.run.seed, "study": self.config.study.seed, "first image measured": FIRST_SEED},
            study=self.study.study_name,
            trial=trial.number,
            parent=self._sha256_of_parent(trial, schedule),
        )
        return make_registration(self.pipeline, _name_of(trial), schedule, lineage, measured, chosen=True)

    def _sha256_of_parent(self, trial: FinishedTrial, schedule: Schedule) -> str | None:
        """Hash of the schedule of the trial that this one was derived from, or that its learning began from."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        if trial.parent is not None:
            return str(trials[trial.parent].user_attrs["sha256"])
        source = schedule.provenance.settings.get(WARM_FROM)
        of_source = (
            str(each.user_attrs["sha256"])
            for each in trials
            if each.state == TrialState.COMPLETE
            and PARENT not in each.user_attrs
            and each.user_attrs.get(ORIGIN, each.number) == source
        )
        return next(of_source, None)

    def _promote(self, name: str, on_images: OnImages) -> None:
        """Promotes versions by the rule of the tiers, each through the gate; a failure leaves the versions alone."""
        why = f"on the frontier of study {self.study.study_name}"
        wanted = PromotionSection(name=name, why=why, checkpoint=self.base.model.checkpoint)
        promotion = PromotionConfig(promotion=wanted, gate=self.config.gate, cluster=self._measuring_config().cluster)
        try:
            verdicts = examine(self.client, promotion, on_images)
            move_aliases(self.client, verdicts, why, lambda move: _log.info("moved %s", move))
        except (RegistryError, ScheduleError, ConflictError) as error:
            _log.warning("no further tier moves: %s", error)
            return
        for verdict in verdicts:
            if not verdict.passed:
                _log.warning("a tier stays where it is: %s", verdict.failure)

    def _trials_artifacts(
        self, trials: Sequence[FinishedTrial], best: Sequence[FinishedTrial], objective: StudyObjective
    ) -> dict[str, bytes]:
        every, on_frontier = ([(trial.cost, trial.measurement.mse) for trial in some] for some in (trials, best))
        return {
            "trials.png": plot_trials(every, on_frontier, objective.cost_name),
            "trials.json": lenient([_described(each) for each in self.study.get_trials(deepcopy=False)]).encode(),
        }


def _schedule_artifacts(
    best: Sequence[FinishedTrial], schedules: Mapping[str, Schedule], measured: MeasuredSchedules
) -> dict[str, bytes]:
    """Files of every trial on the frontier, in a folder of its own."""
    files = {}
    for trial in best:
        folder = _name_of(trial)
        its = measured.comparison.schedules[folder]
        files[f"{folder}/{SCHEDULE_FILE}"] = schedules[folder].to_json().encode()
        files[f"{folder}/{HEATMAP_FILE}"] = plot_schedule(schedules[folder])
        files[f"{folder}/trial.json"] = lenient(trial.as_dict() | {"measured": its.as_dict()}).encode()
    return files


def _nothing_found(study: optuna.Study, trials: Sequence[FinishedTrial]) -> SearchError:
    if trials:
        least = min(trial.measurement.mse for trial in trials)
        problem = f"none of {len(trials)} schedules keeps within the limit (the least error is {least:.2g})"
        return SearchError(f"study {study.study_name}", problem, "raise the limit in [objective] or widen the space")
    reasons = [trial.user_attrs[REASON] for trial in study.get_trials(deepcopy=False) if REASON in trial.user_attrs]
    last = f", the last because {reasons[-1]}" if reasons else ""
    return SearchError(f"study {study.study_name}", f"no trial came to a schedule{last}", "change the space or learn")


def _name_of(trial: FinishedTrial) -> str:
    return f"trial-{trial.number:04d}"


def _described(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "constraints": trial.constraints,
        "user_attrs": trial.user_attrs,
    }
