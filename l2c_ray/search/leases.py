"""Leases of trials: every running trial is leased to a driver, and trials of a dead driver are run again.

Leases are user attributes of the study's trials, so that any number of drivers share one study and any of them may be
killed at any moment. Each change is made under the study's lock and is idempotent: the next driver finishes what
another began. So no trial is lost, none counts twice, and the number of finished trials is met exactly.
"""

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from l2c_ray.search.results import WARM_FROM, Result, ScheduleMeasurement, TrialSpec
from l2c_ray.search.space import Space, distance
from l2c_ray.search.storage import StudyStorage, with_retries
from l2c_ray.search.study import StudyObjective

DRIVER, UNTIL = "driver", "lease_until"
RETRY_OF, ATTEMPT, ORIGIN = "retry_of", "attempt", "origin"
PARENT, PLACE_IN_PARENT, DERIVED = "parent", "point_of_parent", "derived"
REASON, RUN_AGAIN = "reason", "run_again"
"""User attributes of a trial."""


class Ledger:
    """One driver's view of the study's trials."""

    def __init__(
        self,
        study: optuna.Study,
        storage: StudyStorage,
        driver: str,
        space: Space,
        objective: StudyObjective,
        wanted: int,
        lease_seconds: float,
        max_retries: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A view without leases.

        Args:
            driver: a name that no other driver has or had.
            wanted: number of finished learned trials at which the study is over, by all drivers together.
            clock: seconds since the epoch; drivers' clocks must agree much better than `lease_seconds`.
        """
        self._study = study
        self._storage = storage.optuna
        self._lock = storage.lock()
        self._driver = driver
        self._space = space
        self._objective = objective
        self._wanted = wanted
        self._lease_seconds = lease_seconds
        self._max_retries = max_retries
        self._clock = clock
        self._held: dict[int, Trial] = {}
        self._next_renewal = 0.0

    def count_finished(self) -> int:
        """Number of learned trials that will not be run again."""
        return with_retries(self._count_finished)

    def is_over(self) -> bool:
        """Whether the study is finished, with nothing left half done by a dead driver."""
        return self.count_finished() >= self._wanted and with_retries(self._is_over)

    def ask(self, warm_start: bool = False) -> TrialSpec | None:
        """A trial to run, leased to this driver; None while all that are wanted are finished or running.

        Args:
            warm_start: whether it may begin from another trial, which is noted so that a retry begins from the same.
        """
        trial = with_retries(lambda: self._ask(warm_start))
        if trial is None:
            return None
        # Only now: a trial that was leased in vain, since the lock was lost, is run again as any other that was left.
        self._held[trial.number] = trial
        attributes = with_retries(lambda: self._trial(trial.number)).user_attrs
        origin = attributes.get(ORIGIN, trial.number)
        return TrialSpec(trial.number, origin, trial.params, attributes.get(WARM_FROM))

    def tell(self, number: int, result: Result) -> bool:
        """Records the result of a trial; False if another driver has taken the trial over, whose result counts."""
        counts = with_retries(lambda: self._tell(number, result))
        self._held.pop(number, None)
        return counts

    def renew(self) -> list[int]:
        """Extends this driver's leases when it is time to; returns the trials that it has lost."""
        if self._clock() < self._next_renewal:
            return []
        lost = with_retries(self._renew)
        for number in lost:
            del self._held[number]
        self._next_renewal = self._clock() + self._lease_seconds / 4
        return lost

    def release(self) -> None:
        """Ends this driver's leases, so that any driver can run its trials again at once."""
        with_retries(self._release)
        self._held.clear()

    def report(self, number: int, step: int, value: float) -> bool:
        """Reports an intermediate value of a trial; returns whether it should be pruned."""
        return with_retries(lambda: self._report(number, step, value))

    def _count_finished(self) -> int:
        return sum(trial.state.is_finished() and not _is_run_again(trial) for trial in self._learned())

    def _is_over(self) -> bool:
        with self._lock():
            self._recover_lost_trials()
            return self._count_finished() >= self._wanted

    def _ask(self, warm_start: bool) -> Trial | None:
        with self._lock():
            self._recover_lost_trials()
            begun = [trial for trial in self._learned() if trial.state != TrialState.WAITING]
            if sum(not _is_run_again(trial) for trial in begun) >= self._wanted:
                return None
            # One that waits comes first.
            trial = self._study.ask(self._space)
            begins = warm_start and WARM_FROM not in trial.user_attrs
            noted = {WARM_FROM: self._nearest(trial.params)} if begins else {}
            self._set_attributes(trial._trial_id, {DRIVER: self._driver, UNTIL: self._lease_end(), **noted})
            return trial

    def _tell(self, number: int, result: Result) -> bool:
        with self._lock():
            frozen = self._trial(number)
            if frozen.user_attrs.get(DRIVER) != self._driver or _is_run_again(frozen):
                return False
            # It is finished already where the answer to this very call was lost on its way.
            if not frozen.state.is_finished():
                self._finish(frozen, result)
            self._recover_lost_trials()
            return True

    def _finish(self, frozen: FrozenTrial, result: Result) -> None:
        problem = result.reason
        if result.outcome == "finished":
            problem = _infinities(result.measurements[0])
        if result.outcome == "lost":
            self._end_attempt(frozen, result.reason, counts=True)
        elif result.outcome == "pruned":
            self._set_attributes(frozen._trial_id, {REASON: problem or "pruned"})
            self._study.tell(frozen.number, state=TrialState.PRUNED)
        elif problem:
            self._set_attributes(frozen._trial_id, {REASON: problem})
            self._study.tell(frozen.number, state=TrialState.FAIL)
        else:
            own, *derived = result.measurements
            noted = {DERIVED: [vars(measurement) for measurement in derived]} if derived else {}
            self._set_attributes(frozen._trial_id, own.as_attributes() | noted)
            trial = self._held[frozen.number]
            for name, excess in self._objective.constraints(own).items():
                if name not in trial.constraints:
                    trial.set_constraint(name, excess)
            self._study.tell(frozen.number, self._objective.values(own))

    def _recover_lost_trials(self) -> None:
        """Ends trials of dead drivers, enqueues every lost trial again, and adds a trial for every derived schedule."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if reason := self._reason_it_was_lost(trial):
                # It takes a driver that died or lost the database, so the attempt does not count.
                self._end_attempt(trial, reason, counts=False)
        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        there = {(trial.user_attrs.get(PARENT), trial.user_attrs.get(PLACE_IN_PARENT)) for trial in trials}
        for trial in trials:
            if _is_run_again(trial) and trial.number not in retried:
                self._enqueue_again(trial)
            if trial.state == TrialState.COMPLETE:
                for place, derived in enumerate(trial.user_attrs.get(DERIVED, []), start=1):
                    if (trial.number, place) not in there:
                        self._add_derived(trial, place, ScheduleMeasurement(**derived))

    def _reason_it_was_lost(self, trial: FrozenTrial) -> str | None:
        driver, until = trial.user_attrs.get(DRIVER), trial.user_attrs.get(UNTIL)
        if driver is None or until is None:
            return "its driver died as it took the trial up"
        if driver == self._driver:
            return None if trial.number in self._held else "its driver lost the database as it took the trial up"
        if datetime.fromisoformat(until).timestamp() < self._clock():
            return f"driver {driver} was not heard of until {until}"
        return None

    def _end_attempt(self, trial: FrozenTrial, reason: str, counts: bool) -> None:
        """Ends an attempt of a trial; one that does not count may be repeated any number of times."""
        attempt = trial.user_attrs.get(ATTEMPT, 1)
        again = not counts or attempt <= self._max_retries
        end = "" if again else f"; given up after {attempt} tries"
        noted = {REASON: f"{reason}{end}", ATTEMPT: attempt if counts else attempt - 1}
        self._set_attributes(trial._trial_id, noted | ({RUN_AGAIN: True} if again else {}))
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue_again(self, trial: FrozenTrial) -> None:
        """Enqueues a retry with the values that the trial had or was to have."""
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        origin = trial.user_attrs.get(ORIGIN, trial.number)
        attributes = {RETRY_OF: trial.number, ORIGIN: origin, ATTEMPT: trial.user_attrs[ATTEMPT] + 1}
        began = {WARM_FROM: trial.user_attrs[WARM_FROM]} if WARM_FROM in trial.user_attrs else {}
        self._study.enqueue_trial(params, user_attrs=attributes | began)

    def _add_derived(self, parent: FrozenTrial, place: int, measurement: ScheduleMeasurement) -> None:
        """Adds a finished trial with its parent's values and the schedule's own settings."""
        problem = _infinities(measurement)
        attributes = measurement.as_attributes() | {PARENT: parent.number, PLACE_IN_PARENT: place}
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if problem else TrialState.COMPLETE,
                values=None if problem else self._objective.values(measurement),
                params=parent.params,
                distributions=parent.distributions,
                user_attrs=attributes | ({REASON: problem} if problem else {}),
                constraints=self._objective.constraints(measurement) if not problem else None,
            )
        )

    def _renew(self) -> list[int]:
        lost = []
        with self._lock():
            for number in self._held:
                frozen = self._trial(number)
                if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(DRIVER) == self._driver:
                    self._set_attributes(frozen._trial_id, {UNTIL: self._lease_end()})
                else:
                    lost.append(number)
        return lost

    def _release(self) -> None:
        with self._lock():
            for number in self._held:
                frozen = self._trial(number)
                if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(DRIVER) == self._driver:
                    self._end_attempt(frozen, "its driver was stopped", counts=False)
            self._recover_lost_trials()

    def _report(self, number: int, step: int, value: float) -> bool:
        trial = self._held.get(number)
        if trial is None or not math.isfinite(value):
            return False
        with self._lock():
            if self._trial(number).state != TrialState.RUNNING:
                return True
            trial.report(value, step)
            return trial.should_prune()

    def _lease_end(self) -> str:
        until = datetime.fromtimestamp(self._clock() + self._lease_seconds, UTC)
        return until.isoformat(timespec="milliseconds")

    def _nearest(self, params: dict[str, Any]) -> int | None:
        """Origin of the finished learned trial that is nearest in the space; None if there is none."""
        done = [trial for trial in self._learned() if trial.state == TrialState.COMPLETE]
        if not done:
            return None
        nearest = min(done, key=lambda trial: distance(self._space, trial.params, params))
        origin: int = nearest.user_attrs.get(ORIGIN, nearest.number)
        return origin

    def _learned(self) -> Sequence[FrozenTrial]:
        """Trials that are not derived from others."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if PARENT not in trial.user_attrs]

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _set_attributes(self, trial_id: int, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)


def _is_run_again(trial: FrozenTrial) -> bool:
    """Whether the trial was lost and is run again under another number, so that it does not count.

    A trial that another driver gave up may meanwhile have been finished by its own driver.
    """
    return trial.state == TrialState.FAIL and RUN_AGAIN in trial.user_attrs


def _infinities(measurement: ScheduleMeasurement) -> str:
    """The numbers that are not finite, in words; empty if all are."""
    measured = {
        "compute_share": measurement.compute_share,
        "mse": measurement.mse,
        "seconds": measurement.seconds,
    }
    return ", ".join(f"{name} is {value}" for name, value in measured.items() if not math.isfinite(value))
