"""Which packages share a layer: a function of the packages alone, and one that changes little when they do."""

import random

import pytest

from oci_binpkg.errors import UsageError
from oci_binpkg.model.layer_plan import Stacked, check_layers, plan_layers, room_above


def packages(count, *, seed=1):
    numbers = random.Random(seed)
    return [
        Stacked(f"{n:032}", f"package-{n}", int(numbers.lognormvariate(10, 2)) + 100, numbers.randint(1, 14))
        for n in range(count)
    ]


@pytest.mark.parametrize(("count", "room"), [(300, 97), (101, 100), (500, 4), (500, 5), (500, 2), (60, 3), (2000, 122)])
def test_no_more_layers_than_there_is_room_and_each_package_once(count, room):
    planned = plan_layers(packages(count), room)
    assert len(planned) <= room
    assert sorted(each for unit in planned for each in unit) == [each.hash for each in packages(count)]


def test_where_there_is_room_nothing_is_shared_and_the_order_stays():
    given = packages(50)
    assert plan_layers(given, 50) == [[each.hash] for each in given]


def test_order_and_machine_do_not_matter():
    given = packages(300)
    shuffled = random.Random(7).sample(given, len(given))
    assert plan_layers(given, 97) == plan_layers(shuffled, 97)


def test_the_largest_stay_alone():
    given = packages(300)
    alone = {unit[0] for unit in plan_layers(given, 97) if len(unit) == 1}
    largest = sorted(given, key=lambda each: -each.size)[: 97 - 16]
    assert {each.hash for each in largest} <= alone


def test_what_lies_below_comes_first():
    given = {each.hash: each for each in packages(300)}
    heights = [max(given[key].height for key in unit) for unit in plan_layers(list(given.values()), 97)]
    assert heights == sorted(heights)


def different(first, second):
    """Return how many units of the second plan the first one has not."""
    known = {tuple(unit) for unit in first}
    return sum(tuple(unit) not in known for unit in second)


def test_one_small_package_that_changes_changes_one_layer():
    given = packages(300)
    small = min(given, key=lambda each: each.size)
    changed = [Stacked("z" * 32, each.name, each.size, each.height) if each is small else each for each in given]
    assert different(plan_layers(given, 97), plan_layers(changed, 97)) == 1


@pytest.mark.parametrize("size", [50, 40_000, 10**9])
def test_one_package_more_changes_few_layers(size):
    given = packages(300)
    more = [*given, Stacked("z" * 32, "newcomer", size, 3)]
    assert different(plan_layers(given, 97), plan_layers(more, 97)) <= 3


def test_what_must_stay_alone_does():
    given = packages(300)
    walled = [Stacked(e.hash, e.name, e.size, e.height, alone=n < 10) for n, e in enumerate(given)]
    planned = plan_layers(walled, 97)
    assert len(planned) <= 97
    assert all([f"{n:032}"] in planned for n in range(10))


def test_limits():
    assert check_layers(0) == 100
    assert check_layers(125) == 125
    for wanted in (126, 1, -3, 10**9):
        with pytest.raises(UsageError, match="2 to 125"):
            check_layers(wanted)
    assert room_above(3, 100) == 97
    for below in (99, 100, 130):
        with pytest.raises(UsageError, match=f"{below} layers.*may have 100"):
            room_above(below, 100)
