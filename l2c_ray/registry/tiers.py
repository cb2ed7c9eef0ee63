"""Assignment of versions to tiers: the rule behind the aliases quality, balanced, fast and champion."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from l2c_ray.registry.versions import CHAMPION, RegisteredVersion

TIERS: dict[str, float] = {"quality": 0.75, "balanced": 0.5, "fast": 0.35}
"""Largest compute share (of the baseline's MACs) of each tier."""

Withdrawn = Mapping[str, AbstractSet[int]]
"""Numbers of the versions that were rolled back from each alias (`audit.withdrawn`)."""


def assign_tiers(versions: Sequence[RegisteredVersion], withdrawn: Withdrawn) -> dict[str, RegisteredVersion]:
    """The version that each alias should have, among all versions of one registered model.

    `champion` stays until a version worth serving beats it: not worse in compute share and error and better in one,
    under the same weights, guidance and protocol. The first champion is chosen as `balanced` is, among the versions
    comparable with the oldest one worth serving, or is the cheapest of them if none is cheap enough.

    `quality`, `balanced` and `fast` are the versions with the least error at a compute share of at most 0.75, 0.5 and
    0.35, among those worth serving and comparable with the champion. So, without rollbacks, each tier is on the
    frontier, and quality never has more error than balanced, nor balanced than fast. A tier without a version that is
    cheap enough is left out. No alias goes back to a version that was rolled back from it; the next best one gets it.
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
