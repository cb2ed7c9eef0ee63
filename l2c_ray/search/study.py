"""The Optuna study behind a search: its samplers and pruners by name, its objectives, and how it is opened."""

import warnings
from collections.abc import Callable

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from l2c_ray.config.search import ObjectiveSection, PrunerName, SamplerName, SearchConfig
from l2c_ray.data.seeding import draw_seed
from l2c_ray.search.identity import DRIVERS, SETTINGS, lasting_settings, require_the_same
from l2c_ray.search.results import ScheduleMeasurement
from l2c_ray.search.space import make_space
from l2c_ray.search.storage import StudyStorage, with_retries

_LEAST_RANDOM, _MOST_RANDOM = 4, 16

_SAMPLERS: dict[SamplerName, Callable[[int, int, int], BaseSampler]] = {
    "tpe": lambda seed, first, points: TPESampler(seed=seed, n_startup_trials=first * points),
    "nsga2": lambda seed, first, _: NSGAIISampler(seed=seed, population_size=first),
    "nsga3": lambda seed, first, _: NSGAIIISampler(seed=seed, population_size=first),
    "gp": lambda seed, first, points: GPSampler(seed=seed, n_startup_trials=first * points),
    "random": lambda seed, *_: RandomSampler(seed=seed),
}
"""Makers of samplers from a seed, the number of learned trials that are drawn at random first, and the most trials that
one learned trial counts for, with those derived from it."""

_PRUNERS: dict[PrunerName, Callable[[], BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
    "asha": SuccessiveHalvingPruner,
}


class StudyObjective:
    """The numbers that a study minimises: cost and error, or one of them within a limit on the other."""

    def __init__(self, section: ObjectiveSection) -> None:
        self._section = section

    @property
    def names(self) -> list[str]:
        """Names of the minimised numbers."""
        section = self._section
        if section.max_mse is not None:
            return [section.cost]
        return ["mse"] if section.max_cost is not None else [section.cost, "mse"]

    @property
    def cost_name(self) -> str:
        return self._section.cost

    def values(self, measurement: ScheduleMeasurement) -> list[float]:
        return [getattr(measurement, name) for name in self.names]

    def constraints(self, measurement: ScheduleMeasurement) -> dict[str, float]:
        """Excess over the limit, by name; at most 0 within it."""
        section = self._section
        if section.max_mse is not None:
            return {"mse": measurement.mse - section.max_mse}
        if section.max_cost is not None:
            return {section.cost: self.cost(measurement) - section.max_cost}
        return {}

    def cost(self, measurement: ScheduleMeasurement) -> float:
        return measurement.seconds if self._section.cost == "seconds" else measurement.compute_share


def open_study(config: SearchConfig, name: str, storage: StudyStorage) -> optuna.Study:
    """Begins or resumes the study; each driver has a sampler seed of its own, derived from the config's.

    Raises:
        ConfigError: the study of this name is another program's, or was begun with another space, objective or base
            config; nothing was changed.
        UnreachableError: the database was away for too long.
    """
    objective = StudyObjective(config.objective)

    def open_it() -> optuna.Study:
        with storage.lock()():
            study = optuna.create_study(
                storage=storage.optuna,
                study_name=name,
                directions=["minimize"] * len(objective.names),
                load_if_exists=True,
                pruner=_PRUNERS[config.study.pruner](),
            )
            require_the_same(study, config, make_space(config.space), len(objective.names))
            study.set_user_attr(SETTINGS, lasting_settings(config))
            _name_metrics(study, objective.names)
            drivers: int = study.user_attrs.get(DRIVERS, 0)
            study.set_user_attr(DRIVERS, drivers + 1)
            study.sampler = _make_sampler(config, draw_seed(config.study.seed, "sampler", drivers))
            return study

    return with_retries(open_it)


def _name_metrics(study: optuna.Study, names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names)


def _make_sampler(config: SearchConfig, seed: int) -> BaseSampler:
    # Studies have dozens of trials, not thousands: Optuna's own numbers would leave most of them to chance.
    first = min(_MOST_RANDOM, max(_LEAST_RANDOM, config.study.trials // 4))
    points = 1 + len(config.derive.thresholds) + len(config.derive.budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Numpy takes 32 bits.
        return _SAMPLERS[config.study.sampler](seed % 2**32, first, points)
