"""Bursts pass, floods have gaps, and the gaps are few."""

from supervisor.observe.pace import Pace


def test_the_pace_lets_a_burst_through_then_waits_until_a_seconds_worth_is_back() -> None:
    pace = Pace(rate_bytes_s=100, burst_bytes=300)
    assert [pace.admits(100, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not pace.admits(1, 0.9)  # there would be room, but not for long
    assert pace.admits(100, 1.0)
    assert not pace.admits(1, 1.0)
    assert [pace.admits(100, 100.0) for _ in range(4)] == [True, True, True, False]
