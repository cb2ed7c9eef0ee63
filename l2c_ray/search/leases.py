"""Who runs which trial: every running trial is leased to a driver, and what a dead one left is run again.

All of it is in the study itself, as user attributes of its trials, so that any number of drivers share one study and
any of them may be killed at any moment. Each change is made under the study's lock and can be repeated: whoever comes
next finishes what was begun. So no trial is lost, none counts twice, and the number of finished trials is met exactly.
"""

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from l2c_ray.search.results import WARM_FROM, Order, Point, Result
from l2c_ray.search.space import Space, distance
from l2c_ray.search.storage import StudyStorage, with_retries
from l2c_ray.search.study import Objective

DRIVER, UNTIL = "driver", "lease_until"
RETRY_OF, ATTEMPT, ORIGIN = "retry_of", "attempt", "origin"
PARENT, POINT_OF_PARENT, DERIVED = "parent", "point_of_parent", "derived"
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
        objective: Objective,
        wanted: int,
        lease_seconds: float,
        max_retries: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        driver: a name that no other driver has or had.
        wanted: learned trials that are to be finished in the end, by all drivers together.
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
        """Learned trials that nobody is going to run again."""
        return with_retries(self._count_finished)

    def is_over(self) -> bool:
        """Whether there is nothing left to do or to wait for, nor anything that a dead driver left half done."""
        return self.count_finished() >= self._wanted and with_retries(self._is_over)

    def claim(self, warm_start: bool = False) -> Trial | None:
        """A trial to run, leased to this driver; None while all that are wanted are finished or being run.

        Args:
            warm_start: it may begin from another one, which is noted, so that a later try begins from the same.
        """
        trial = with_retries(lambda: self._claim(warm_start))
        # Only now: one that was claimed in vain, since the lock was lost, is taken up as any other that was left.
        if trial is not None:
            self._held[trial.number] = trial
        return trial

    def settle(self, number: int, result: Result) -> bool:
        """Notes how a trial ended; False if it was another driver's by then, whose result counts in place of this."""
        settled = with_retries(lambda: self._settle(number, result))
        self._held.pop(number, None)
        return settled

    def renew(self) -> list[int]:
        """Keeps this driver's leases from running out, when it is time to; gives the trials that it has lost."""
        if self._clock() < self._next_renewal:
            return []
        lost = with_retries(self._renew)
        for number in lost:
            del self._held[number]
        self._next_renewal = self._clock() + self._lease_seconds / 4
        return lost

    def release(self) -> None:
        """Gives back every trial that this driver runs, for any driver to take up at once."""
        with_retries(self._release)
        self._held.clear()

    def report(self, number: int, step: int, value: float) -> bool:
        """Notes how a trial is doing; whether it may as well stop."""
        return with_retries(lambda: self._report(number, step, value))

    def order_of(self, trial: Trial) -> Order:
        """What a claimed trial is to do."""
        attributes = with_retries(lambda: self._trial(trial.number)).user_attrs
        origin = attributes.get(ORIGIN, trial.number)
        return Order(trial.number, origin, trial.params, attributes.get(WARM_FROM))

    def _count_finished(self) -> int:
        return sum(trial.state.is_finished() and not _is_followed(trial) for trial in self._learned())

    def _is_over(self) -> bool:
        with self._lock():
            self._take_up_what_was_left()
            return self._count_finished() >= self._wanted

    def _claim(self, warm_start: bool) -> Trial | None:
        with self._lock():
            self._take_up_what_was_left()
            begun = [trial for trial in self._learned() if trial.state != TrialState.WAITING]
            if sum(not _is_followed(trial) for trial in begun) >= self._wanted:
                return None
            # One that waits comes first.
            trial = self._study.ask(self._space)
            begins = warm_start and WARM_FROM not in trial.user_attrs
            noted = {WARM_FROM: self._nearest(trial.params)} if begins else {}
            self._note(trial._trial_id, {DRIVER: self._driver, UNTIL: self._lease_end(), **noted})
            return trial

    def _settle(self, number: int, result: Result) -> bool:
        with self._lock():
            frozen = self._trial(number)
            if frozen.user_attrs.get(DRIVER) != self._driver or _is_followed(frozen):
                return False
            # It is finished already where the answer to this very call was lost on its way.
            if not frozen.state.is_finished():
                self._finish(frozen, result)
            self._take_up_what_was_left()
            return True

    def _finish(self, frozen: FrozenTrial, result: Result) -> None:
        problem = result.reason
        if result.outcome == "finished":
            problem = _flaw(result.points[0])
        if result.outcome == "lost":
            self._lose(frozen, result.reason, counts=True)
        elif result.outcome == "pruned":
            self._note(frozen._trial_id, {REASON: problem or "pruned"})
            self._study.tell(frozen.number, state=TrialState.PRUNED)
        elif problem:
            self._note(frozen._trial_id, {REASON: problem})
            self._study.tell(frozen.number, state=TrialState.FAIL)
        else:
            own, *derived = result.points
            noted = {DERIVED: [vars(point) for point in derived]} if derived else {}
            self._note(frozen._trial_id, own.as_attributes() | noted)
            trial = self._held[frozen.number]
            for name, excess in self._objective.constraints(own).items():
                if name not in trial.constraints:
                    trial.set_constraint(name, excess)
            self._study.tell(frozen.number, self._objective.values(own))

    def _take_up_what_was_left(self) -> None:
        """Ends trials whose driver is dead; gives every lost trial a successor, and every derived point a trial."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if reason := self._how_it_was_lost(trial):
                # Each of these takes a driver that died or lost the database, so they end without being counted.
                self._lose(trial, reason, counts=False)
        trials = self._study.get_trials(deepcopy=False)
        followed = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        there = {(trial.user_attrs.get(PARENT), trial.user_attrs.get(POINT_OF_PARENT)) for trial in trials}
        for trial in trials:
            if _is_followed(trial) and trial.number not in followed:
                self._enqueue_again(trial)
            if trial.state == TrialState.COMPLETE:
                for place, point in enumerate(trial.user_attrs.get(DERIVED, []), start=1):
                    if (trial.number, place) not in there:
                        self._add_derived(trial, place, Point(**point))

    def _how_it_was_lost(self, trial: FrozenTrial) -> str | None:
        driver, until = trial.user_attrs.get(DRIVER), trial.user_attrs.get(UNTIL)
        if driver is None or until is None:
            return "its driver died as it took the trial up"
        if driver == self._driver:
            return None if trial.number in self._held else "its driver lost the database as it took the trial up"
        if datetime.fromisoformat(until).timestamp() < self._clock():
            return f"driver {driver} was not heard of until {until}"
        return None

    def _lose(self, trial: FrozenTrial, reason: str, counts: bool) -> None:
        """Ends a try of a trial. One that does not count may be made again, however often."""
        attempt = trial.user_attrs.get(ATTEMPT, 1)
        again = not counts or attempt <= self._max_retries
        end = "" if again else f"; given up after {attempt} tries"
        noted = {REASON: f"{reason}{end}", ATTEMPT: attempt if counts else attempt - 1}
        self._note(trial._trial_id, noted | ({RUN_AGAIN: True} if again else {}))
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue_again(self, trial: FrozenTrial) -> None:
        """With the values it had, and those it was to have."""
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        origin = trial.user_attrs.get(ORIGIN, trial.number)
        attributes = {RETRY_OF: trial.number, ORIGIN: origin, ATTEMPT: trial.user_attrs[ATTEMPT] + 1}
        began = {WARM_FROM: trial.user_attrs[WARM_FROM]} if WARM_FROM in trial.user_attrs else {}
        self._study.enqueue_trial(params, user_attrs=attributes | began)

    def _add_derived(self, parent: FrozenTrial, place: int, point: Point) -> None:
        """A finished trial with its parent's values, beside what the point has for itself."""
        problem = _flaw(point)
        attributes = point.as_attributes() | {PARENT: parent.number, POINT_OF_PARENT: place}
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if problem else TrialState.COMPLETE,
                values=None if problem else self._objective.values(point),
                params=parent.params,
                distributions=parent.distributions,
                user_attrs=attributes | ({REASON: problem} if problem else {}),
                constraints=self._objective.constraints(point) if not problem else None,
            )
        )

    def _renew(self) -> list[int]:
        lost = []
        with self._lock():
            for number in self._held:
                frozen = self._trial(number)
                if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(DRIVER) == self._driver:
                    self._note(frozen._trial_id, {UNTIL: self._lease_end()})
                else:
                    lost.append(number)
        return lost

    def _release(self) -> None:
        with self._lock():
            for number in self._held:
                frozen = self._trial(number)
                if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(DRIVER) == self._driver:
                    self._lose(frozen, "its driver was stopped", counts=False)
            self._take_up_what_was_left()

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
        """The origin of the finished learned trial that is nearest in the space."""
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

    def _note(self, trial_id: int, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)


def _is_followed(trial: FrozenTrial) -> bool:
    """Whether the trial was lost and is run again under another number, so that it does not count.

    One that was given up by a driver that died before it could say so may have been finished by its own.
    """
    return trial.state == TrialState.FAIL and RUN_AGAIN in trial.user_attrs


def _flaw(point: Point) -> str:
    """What keeps a point from being compared; empty where nothing does."""
    measured = {"compute_share": point.compute_share, "mse": point.mse, "seconds": point.seconds}
    return ", ".join(f"{name} is {value}" for name, value in measured.items() if not math.isfinite(value))
