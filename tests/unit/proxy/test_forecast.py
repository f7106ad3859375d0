"""`proxy.forecast`: how long a newcomer would wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.forecast import MIN_SAMPLES, ServiceTimes


def measured(*seconds: float) -> ServiceTimes:
    times = ServiceTimes()
    for each in seconds:
        times.note(each)
    return times


def test_nothing_is_said_before_enough_is_known() -> None:
    assert measured(*[1.0] * (MIN_SAMPLES - 1)).wait_s(100, 4) is None


@pytest.mark.parametrize(
    ("ahead", "slots", "expected"), [(0, 4, 0.0), (3, 4, 0.0), (4, 4, 0.5), (7, 4, 2.0), (10, 1, 20.0)]
)
def test_a_full_house_moves_on_by_slots(ahead: int, slots: int, expected: float) -> None:
    assert measured(*[2.0] * 20).wait_s(ahead, slots) == pytest.approx(expected)


def test_it_follows_a_change_of_load() -> None:
    times = measured(*[1.0] * 100, *[5.0] * 60)
    assert times.wait_s(1, 1) == pytest.approx(5.0, rel=0.02)


@given(st.lists(st.floats(0.001, 1000.0), min_size=MIN_SAMPLES, max_size=200))
def test_the_mean_stays_within_what_was_seen(seconds: list[float]) -> None:
    mean = measured(*seconds).wait_s(1, 1)
    assert mean is not None
    assert min(seconds) - 1e-6 <= mean <= max(seconds) + 1e-6
