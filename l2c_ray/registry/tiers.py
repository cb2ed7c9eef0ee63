"""Which version each tier is: the rule behind the aliases quality, balanced, fast and champion."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from l2c_ray.registry.versions import CHAMPION, RegisteredVersion

TIERS: dict[str, float] = {"quality": 0.75, "balanced": 0.5, "fast": 0.35}
"""At most this share of the full run's compute."""

Withdrawn = Mapping[str, AbstractSet[int]]
"""By alias, numbers of the versions that it was rolled back from (`audit.withdrawn`)."""


def assign_tiers(versions: Sequence[RegisteredVersion], withdrawn: Withdrawn) -> dict[str, RegisteredVersion]:
    """The version that each alias should have, of all versions of one registered model.

    `champion` stays with the version that has it until one that is worth serving beats it: is as good in compute share
    and error and better in one of them, under the same weights, guidance and protocol. Where none has it, it starts
    as `balanced` does, of the versions that compare with the oldest one worth serving, or with the cheapest of them if
    none is cheap enough for that.

    `quality`, `balanced` and `fast` are the versions of least error that take at most 0.75, 0.5 and 0.35 of the full
    run's compute. Only what compares with the champion and is worth serving counts. So, where nothing was rolled back,
    quality never has more error than balanced, nor balanced than fast, and each tier is on the frontier: nothing is as
    good in both and better in one. A tier that no version is cheap enough for is left out, and nothing is chosen where
    no version is worth serving. No alias goes back to a version that it was rolled back from; the next best one gets it
    then.
    """
    champion = _champion(versions, withdrawn.get(CHAMPION, frozenset()))
    if champion is None:
        return {}
    comparable = [version for version in versions if version.worth_serving and not version.differs_in(champion)]
    chosen = {CHAMPION: champion}
    for tier, most in TIERS.items():
        taken_back = withdrawn.get(tier, frozenset())
        within = [each for each in comparable if each.compute_share <= most and each.version not in taken_back]
        if within:
            chosen[tier] = min(within, key=_by_error)
    return chosen


def _champion(versions: Sequence[RegisteredVersion], taken_back: AbstractSet[int]) -> RegisteredVersion | None:
    champion = next((version for version in versions if CHAMPION in version.aliases), None)
    eligible = [version for version in versions if version.worth_serving and version.version not in taken_back]
    eligible.sort(key=lambda version: version.version)
    if champion is None:
        return _first_champion(eligible)
    for version in eligible:
        if version.beats(champion):
            champion = version
    return champion


def _first_champion(eligible: Sequence[RegisteredVersion]) -> RegisteredVersion | None:
    comparable = [version for version in eligible if not version.differs_in(eligible[0])]
    cheap = [version for version in comparable if version.compute_share <= TIERS["balanced"]]
    return min(cheap, key=_by_error) if cheap else min(comparable, key=_by_cost, default=None)


def _by_error(version: RegisteredVersion) -> tuple[float, float, int]:
    return version.mse, version.compute_share, version.version


def _by_cost(version: RegisteredVersion) -> tuple[float, float, int]:
    return version.compute_share, version.mse, version.version
