"""`proxy.retry`: is it asked again, and when?"""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import LlmsupError, UpstreamCrashed, UpstreamFailed
from supervisor.proxy.bounds import RetryBounds
from supervisor.proxy.retry import Retries, allowed

RETRIES = Retries(RetryBounds(max_retries=2, delay_s=1.0, multiplier=3.0))


def exchange(**fields: Any) -> Any:
    return SimpleNamespace(**{"attempts": 1, "final": False, "excused": 0} | fields)


def failed(reason: str | int | None) -> LlmsupError:
    error = UpstreamFailed("no")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("fields", "again"),
    [({}, True), ({"attempts": 2}, True), ({"attempts": 3}, False), ({"final": True}, False)],
)
def test_who_is_asked_again(fields: dict[str, Any], again: bool) -> None:
    error = UpstreamCrashed("gone")
    assert RETRIES.given_up(exchange(**fields), error) is (None if again else error)


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (failed("ECONNREFUSED"), True),
        (failed("EHOSTUNREACH"), False),
        (failed(503), True),
        (failed(502), False),
        (failed(None), True),
        (UpstreamCrashed("gone"), True),
    ],
)
def test_what_a_living_child_is_asked_again_after(error: LlmsupError, worth: bool) -> None:
    assert RETRIES.refusal(error) is (None if worth else error)


def test_a_crash_that_was_anothers_fault_costs_no_try() -> None:
    error = UpstreamCrashed("gone")
    assert RETRIES.given_up(exchange(attempts=5, excused=3), error) is None
    assert RETRIES.given_up(exchange(attempts=5, excused=2), error) is error


def test_delays_grow() -> None:
    assert [RETRIES.delay_s(exchange(attempts=n)) for n in (0, 1, 2, 3)] == [1.0, 1.0, 3.0, 9.0]


def test_statuses_are_asked_again_while_tries_are_left() -> None:
    assert RETRIES.wanted(exchange(), 503)
    assert not RETRIES.wanted(exchange(), 500)
    assert not RETRIES.wanted(exchange(attempts=3), 503)


@pytest.mark.parametrize(("active", "limit"), [(0, 3), (15, 3), (16, 4), (100, 20)])
def test_the_budget_is_a_fifth_and_at_least_three(active: int, limit: int) -> None:
    assert [allowed(n, active) for n in range(limit + 2)] == [True] * limit + [False] * 2
