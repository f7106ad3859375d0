"""`proxy.breaker`: when nothing is sent, and how it begins again."""

from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.breaker import Breaker, BreakerBounds, BreakerState

BOUNDS = BreakerBounds(failure_threshold=3, reset_timeout_s=30.0, half_open_requests=2)


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker(BOUNDS)
    assert [breaker.failed(at) for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(BOUNDS)
    for _ in range(10):
        breaker.failed(1.0)
        breaker.failed(1.0)
        breaker.succeeded(slots=4)
    assert breaker.closed
    assert breaker.admits(1000)
    assert not opened().closed


def test_it_half_opens_after_its_time_and_only_once() -> None:
    breaker = opened(100.0)
    assert not breaker.due(129.9)
    assert not breaker.admits(0)
    assert breaker.due(130.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.due(131.0)
    assert not breaker.admits(0), "nobody's request is a canary"


def test_canaries_close_it_and_one_that_fails_opens_it_again() -> None:
    breaker = opened(100.0)
    breaker.due(130.0)
    assert not breaker.canary(131.0, answered=True)
    assert not breaker.canary(132.0, answered=False)
    assert (breaker.state, breaker.until) == (BreakerState.OPEN, 162.0)
    breaker.due(162.0)
    assert not breaker.canary(163.0, answered=True), "those before the failure do not count"
    assert breaker.canary(164.0, answered=True)
    assert breaker.closed


def test_after_it_has_closed_requests_come_back_in_doublings() -> None:
    breaker = opened(100.0)
    breaker.due(130.0)
    breaker.canary(130.0, answered=True)
    breaker.canary(130.0, answered=True)
    allowed = []
    for _ in range(4):
        allowed.append(next((n for n in range(100) if not breaker.admits(n)), None))
        breaker.succeeded(slots=8)
    assert allowed == [1, 2, 4, None]


def test_failures_while_open_do_not_prolong_it() -> None:
    breaker = opened(100.0)
    assert not breaker.failed(120.0)
    assert breaker.due(130.0)


def test_a_canary_of_an_earlier_time_says_nothing() -> None:
    breaker = Breaker(BOUNDS)
    assert not breaker.canary(1.0, answered=True)
    assert not breaker.canary(1.0, answered=False)
    assert breaker.closed


@given(st.lists(st.sampled_from(["fail", "succeed", "wait", "good", "bad"]), max_size=60))
def test_whatever_comes_it_opens_only_by_failures_and_closes_only_by_canaries(steps: list[str]) -> None:
    breaker, now, row = Breaker(BOUNDS), 0.0, 0
    for step in steps:
        before = breaker.state
        if step == "fail":
            breaker.failed(now)
        elif step == "succeed":
            breaker.succeeded(slots=4)
        elif step == "wait":
            now += 10.0
            breaker.due(now)
        else:
            breaker.canary(now, answered=step == "good")
        row = row + 1 if step == "fail" else 0 if step == "succeed" else row
        if before is BreakerState.CLOSED and breaker.state is BreakerState.OPEN:
            assert row >= BOUNDS.failure_threshold
        if before is not BreakerState.CLOSED and breaker.closed:
            assert (before, step) == (BreakerState.HALF_OPEN, "good")
            row = 0
