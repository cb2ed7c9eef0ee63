from dataclasses import replace

from registry_factories import NAME, PROTOCOL

from l2c_ray.registry.tiers import assign_tiers
from l2c_ray.registry.versions import CHAMPION, RegisteredVersion


def version(number: int, compute_share: float, mse: float, *aliases: str, worth: bool = True) -> RegisteredVersion:
    conditions = ("a" * 64, "1.5 standard", PROTOCOL)
    return RegisteredVersion(NAME, number, aliases, f"{number:064d}", compute_share, mse, *conditions, "", "", worth)


def chosen(*versions: RegisteredVersion, **withdrawn: set[int]) -> dict[str, int]:
    return {alias: each.version for alias, each in assign_tiers(versions, withdrawn).items()}


FRONTIER = [
    version(1, 0.88, 1e-7),
    version(2, 0.75, 1e-6),
    version(3, 0.62, 4e-6),
    version(4, 0.50, 2e-5),
    version(5, 0.42, 6e-5),
    version(6, 0.35, 1e-4),
    version(7, 0.25, 7e-4),
]


def test_each_tier_is_the_least_error_within_its_share_of_the_compute() -> None:
    assert chosen(*FRONTIER) == {"quality": 2, "balanced": 4, "fast": 6, CHAMPION: 4}
    assert chosen(*reversed(FRONTIER)) == chosen(*FRONTIER)


def test_version_that_another_is_better_than_is_no_tier() -> None:
    assert chosen(*FRONTIER, version(8, 0.49, 1e-5))["balanced"] == 8
    assert chosen(*FRONTIER, version(8, 0.50, 3e-5))["balanced"] == 4
    # A better one with less compute is better for every tier that it is cheap enough for.
    tiers = chosen(*FRONTIER, version(8, 0.30, 1e-7))
    assert (tiers["quality"], tiers["balanced"], tiers["fast"]) == (8, 8, 8)


def test_tier_that_nothing_is_cheap_enough_for_is_left_out() -> None:
    assert chosen(version(1, 0.62, 1e-4)) == {"quality": 1, CHAMPION: 1}
    assert chosen(version(1, 0.9, 1e-4)) == {CHAMPION: 1}
    assert chosen() == {}


def test_of_equals_the_oldest_is_chosen() -> None:
    assert chosen(version(2, 0.5, 1e-4), version(1, 0.5, 1e-4)) == {"quality": 1, "balanced": 1, CHAMPION: 1}


def test_what_fewer_steps_do_as_well_is_never_chosen() -> None:
    assert chosen(version(1, 0.3, 1e-9, worth=False)) == {}
    assert chosen(*FRONTIER, version(8, 0.3, 1e-9, worth=False)) == chosen(*FRONTIER)


def test_only_what_compares_with_the_champion_counts() -> None:
    for other in ({"weights_sha256": "b" * 64}, {"guidance": "3 standard"}, {"protocol": "frontier/1 images=2"}):
        stranger = replace(version(8, 0.3, 1e-9), **other)
        assert chosen(*FRONTIER, stranger) == chosen(*FRONTIER)
        crowned = replace(stranger, aliases=(CHAMPION,))
        assert set(chosen(*FRONTIER, crowned).values()) == {8}


def test_first_champion_is_the_balanced_version_or_the_cheapest_there_is() -> None:
    assert chosen(*FRONTIER[3:])[CHAMPION] == 4
    assert chosen(*FRONTIER[:3])[CHAMPION] == 3
    stranger = replace(version(8, 0.49, 1e-9), guidance="3 standard")
    assert chosen(*FRONTIER, stranger)[CHAMPION] == 4


def test_champion_stays_until_it_is_beaten() -> None:
    assert chosen(*FRONTIER[:4], version(5, 0.42, 6e-5, CHAMPION))[CHAMPION] == 5
    assert chosen(*FRONTIER[:4], version(5, 0.42, 6e-5, CHAMPION), version(6, 0.42, 5e-5))[CHAMPION] == 6
    assert chosen(version(1, 0.5, 1e-4, CHAMPION, worth=False), version(2, 0.6, 1e-5))[CHAMPION] == 1


def test_version_that_an_alias_was_rolled_back_from_does_not_get_it_again() -> None:
    tiers = chosen(*FRONTIER, balanced={4}, champion={4})
    assert tiers == {"quality": 2, "balanced": 5, "fast": 6, CHAMPION: 5}
    better = version(8, 0.80, 1e-8)
    assert chosen(*FRONTIER, version(9, 0.9, 1e-6, CHAMPION), better, champion={1, 8})[CHAMPION] == 2
