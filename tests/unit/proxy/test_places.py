"""`proxy.places`: who gives up a place."""

from dataclasses import dataclass

import pytest

from supervisor.proxy.places import AT_LEAST, PART, TOGETHER, bound, crowding, to_go


@dataclass
class Place:
    peer: str = "192.0.2.1"
    since: float = 0.0
    begun: float = 0.0
    idle: bool = False
    unfinished: bool = False
    refused: bool = False


def slow(begun: float, peer: str = "192.0.2.1") -> Place:
    return Place(peer=peer, begun=begun, unfinished=True)


def test_where_all_are_being_answered_nobody_goes():
    assert to_go([Place(), Place()], 32, 100.0) == []


def test_incomplete_ones_go_first_and_of_them_those_of_whoever_has_most():
    crowd = [slow(begun, "192.0.2.9") for begun in (3.0, 2.0)]
    one, idle = slow(1.0), Place(idle=True)
    assert to_go([one, *crowd, idle, Place()], 32, 100.0) == [crowd[1]]


def test_what_has_just_begun_is_left_alone():
    fresh, idle = slow(99.5), Place(idle=True)
    assert to_go([fresh, idle], 32, 100.0) == [idle]
    assert to_go([fresh], 32, 100.0) == []


def test_an_address_with_more_than_its_part_waits_for_no_time_to_come():
    fresh = [slow(99.5) for _ in range(33)]
    assert to_go(fresh, 32, 100.0) == fresh[:2]


def test_who_has_had_the_last_answer_goes_first():
    refused = Place(refused=True)
    assert to_go([slow(1.0), Place(idle=True), refused], 32, 100.0) == [refused]


def test_the_longest_idle_go_several_at_once():
    idle = [Place(idle=True, since=float(number)) for number in range(2 * TOGETHER)]
    assert to_go(idle[::-1], 32, 100.0) == idle[:3]


@pytest.mark.parametrize(("places", "most"), [(10, AT_LEAST), (1000, 1000 // PART)])
def test_the_bound_of_one_address(places, most):
    assert bound(places) == most


def test_beyond_the_bound_the_longest_incomplete_ones_of_that_address_go():
    here = [slow(float(number)) for number in range(5)]
    there = [slow(0.0, "192.0.2.7") for _ in range(3)]
    assert crowding([*reversed(here), *there], 3, 100.0) == here[:2]


def test_those_that_have_just_begun_do_not_count():
    assert crowding([slow(99.5) for _ in range(5)], 3, 100.0) == []
