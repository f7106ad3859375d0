"""`proxy.gate`: what the child dropped, who is blamed for a crash, and how a sick child is spared."""

import asyncio

import pytest

from supervisor.errors import Quarantined, QueueTimeout, UpstreamCrashed, UpstreamFailed
from supervisor.proxy.bounds import RetryBounds
from supervisor.proxy.breaker import BreakerBounds, BreakerState
from supervisor.proxy.inflight import Exchange
from supervisor.types import Generation
from tests.support.desk import FIELDS, Desk
from tests.support.proxyrig import DEMO, view

CRASH = "segfault"
POISON = b'{"grammar":"((((("}'


def at_child(desk: Desk) -> set[Exchange]:
    return set(desk.gate.active)


def lose(desk: Desk, *exchanges: Exchange) -> None:
    for exchange in exchanges:
        desk.attempt(exchange)


def answered(desk: Desk, exchange: Exchange, seconds: float = 0.0) -> None:
    desk.time += seconds
    exchange.served = True
    desk.gate.leave(exchange)


# ---- the same generation, and the next


def test_the_same_generation_is_not_asked_again_before_the_delay() -> None:
    desk = Desk(retry=RetryBounds(max_retries=3, delay_s=1.0, multiplier=2.0))
    desk.ready()
    one = desk.ask()
    for delay_s in (1.0, 2.0):
        lose(desk, one)
        desk.checks += 1
        desk.ready()
        assert not at_child(desk)
        desk.wait(delay_s * 0.99)
        assert not at_child(desk)
        desk.wait(delay_s * 0.02)
        assert at_child(desk) == {one}


def test_the_next_generation_is_asked_at_once() -> None:
    desk = Desk(retry=RetryBounds(delay_s=60.0))
    desk.ready()
    one = desk.ask()
    lose(desk, one)
    desk.died(1, "killed")
    desk.ready(generation=2)
    assert at_child(desk) == {one}


def test_a_delayed_request_holds_up_nobody() -> None:
    desk = Desk(slots=1, retry=RetryBounds(delay_s=5.0))
    desk.ready()
    lose(desk, desk.ask())
    desk.checks += 1
    desk.ready()
    other = desk.ask()
    assert at_child(desk) == {other}


def test_a_status_does_not_put_the_child_in_doubt() -> None:
    desk = Desk()
    desk.ready()
    one = desk.ask()
    refused = UpstreamFailed("503")
    refused.reason = 503
    one.attempts += 1
    desk.gate.lost(one, refused)
    assert desk.pokes == 0
    assert at_child(desk) == {one}


@pytest.mark.parametrize("lives", [True, False])
def test_a_refusal_that_is_not_worth_a_try_counts_only_if_the_child_lives(lives: bool) -> None:
    """A dying child resets connections; which of the two it is, is known only later."""
    desk = Desk()
    desk.ready()
    one = desk.ask()
    error = UpstreamFailed("reset")
    error.reason = "ECONNRESET"
    one.attempts += 1
    desk.gate.lost(one, error)
    assert not desk.refused
    if lives:
        desk.checks += 1
        desk.ready()
        assert desk.refused == {one: "upstream_failed"}
    else:
        desk.died(1, "killed")
        desk.ready(generation=2)
        assert at_child(desk) == {one}


def test_retries_have_a_budget_and_wait_for_it() -> None:
    desk = Desk(slots=10, queue_size=20)
    desk.ready()
    lost = [desk.ask() for _ in range(6)]
    lose(desk, *lost)
    desk.died(1, "killed")
    desk.ready(generation=2)
    assert len(at_child(desk)) == 3
    assert not desk.refused
    while desk.gate.waiting:
        answered(desk, next(iter(at_child(desk))))
    assert not desk.refused


def test_a_stream_that_goes_on_does_not_wait_for_the_budget() -> None:
    desk = Desk(slots=10, queue_size=20)
    desk.ready()
    lost = [desk.ask() for _ in range(6)]
    for each in lost:
        each.answering = True
    lose(desk, *lost)
    desk.died(1, "killed")
    desk.ready(generation=2)
    assert at_child(desk) == set(lost)


# ---- blame


def crashed(desk: Desk, generation: int, *, told_first: bool, cause: str = CRASH) -> None:
    """The crash of a generation with all that is at it; the exit or the broken connections are seen first."""
    inside = list(at_child(desk))
    if told_first:
        desk.died(generation, cause)
        lose(desk, *inside)
    else:
        lose(desk, *inside)
        desk.died(generation, cause)
    desk.ready(generation=generation + 1)


@pytest.mark.parametrize("told_first", [True, False], ids=["exit first", "connections first"])
def test_what_kills_twice_is_refused_and_the_others_go_on(told_first: bool) -> None:
    desk = Desk(slots=4, queue_size=10)
    desk.ready()
    poison, *others = [desk.ask(body=POISON), desk.ask(body=b"1"), desk.ask(body=b"2")]
    crashed(desk, 1, told_first=told_first)
    assert len(at_child(desk)) == 1, "those that were inside go alone"
    generation = 2
    while poison not in desk.refused:
        (alone,) = at_child(desk)
        if alone is poison:
            crashed(desk, generation, told_first=told_first)
            generation += 1
        else:
            answered(desk, alone)
    assert desk.refused == {poison: "request_quarantined"}
    for each in list(at_child(desk)):
        answered(desk, each)
    while at_child(desk):
        answered(desk, next(iter(at_child(desk))))
    assert not desk.gate.waiting
    assert set(desk.refused) == {poison}
    with pytest.raises(Quarantined):
        enter(desk, POISON)
    assert enter(desk, b"1")
    assert all(other not in desk.refused for other in others)


def enter(desk: Desk, body: bytes) -> bool:
    from types import SimpleNamespace

    exchange = Exchange(SimpleNamespace(current=None), b"POST", b"/", FIELDS, "")
    exchange.body, exchange.gate = body, desk.gate
    return desk.gate.enter(exchange)


@pytest.mark.parametrize("cause", ["killed", "hung", "stopped", "signalled"])
def test_a_death_that_no_request_can_cause_blames_nobody(cause: str) -> None:
    desk = Desk(slots=4, retry=RetryBounds(max_retries=50, delay_s=0.0))
    desk.ready()
    one = desk.ask(body=POISON)
    for generation in range(1, 10):
        crashed(desk, generation, told_first=generation % 2 == 0, cause=cause)
    assert at_child(desk) == {one}
    assert one.crashes == 0


def test_one_death_is_blamed_once() -> None:
    desk = Desk()
    desk.ready()
    one = desk.ask()
    lose(desk, one)
    desk.died(1, CRASH)
    desk.died(1, CRASH)  # published again, with something else changed
    assert one.crashes == 1


# ---- the breaker


BREAKER = BreakerBounds(failure_threshold=3, reset_timeout_s=20.0, half_open_requests=2)


def opened(desk: Desk) -> Exchange:
    """Three times of doubt in a row."""
    desk.ready()
    one = desk.ask()
    for _ in range(3):
        lose(desk, one)
        desk.checks += 1
        desk.ready()
    return one


def test_failures_in_a_row_stop_the_sending_and_clients_wait() -> None:
    desk = Desk(breaker=BREAKER, retry=RetryBounds(max_retries=10, delay_s=0.0))
    one = opened(desk)
    assert not desk.gate.breaker.closed
    other = desk.ask()
    assert not at_child(desk)
    assert list(desk.gate.waiting) == [one, other]
    assert not desk.refused


def test_where_it_stays_open_longer_than_anybody_may_wait_they_are_told_at_once() -> None:
    desk = Desk(breaker=BreakerBounds(3, 300.0, 2), retry=RetryBounds(max_retries=10, delay_s=0.0))
    opened(desk)
    late = desk.ask()
    assert desk.refused[late] == "model_unavailable"


def test_canaries_of_our_own_close_it() -> None:
    desk = Desk(slots=4, breaker=BREAKER, retry=RetryBounds(max_retries=10, delay_s=0.0))
    one = opened(desk)
    others = [desk.ask(), desk.ask()]

    async def later() -> None:
        desk.canaries = [True, False]
        desk.gate.sweep(desk.time + 19.0)
        assert desk.gate.breaker.state is BreakerState.OPEN
        for answers in ([True, False], [True, True]):
            desk.canaries = answers
            desk.time += 20.0
            desk.gate.sweep(desk.time)
            assert desk.gate.breaker.state is BreakerState.HALF_OPEN
            for _ in range(10):
                await asyncio.sleep(0)

    asyncio.run(later())
    assert desk.gate.breaker.closed
    assert at_child(desk) == {one}, "one at first"
    answered(desk, one)
    assert at_child(desk) == set(others), "then two"


def test_ten_that_die_together_are_one_failure() -> None:
    desk = Desk(slots=10, queue_size=20, breaker=BREAKER)
    desk.ready()
    lost = [desk.ask() for _ in range(10)]
    lose(desk, *lost)
    desk.died(1, "killed")
    desk.ready(generation=2)
    assert desk.gate.breaker.closed


def test_a_kill_a_second_with_answers_in_between_does_not_open_it() -> None:
    desk = Desk(breaker=BREAKER)
    desk.ready()
    for generation in range(1, 20):
        one = desk.ask()
        lose(desk, one)
        desk.died(generation, "killed")
        desk.ready(generation=generation + 1)
        answered(desk, one)
    assert desk.gate.breaker.closed


def test_an_idle_child_that_is_killed_is_nobodys_failure() -> None:
    desk = Desk(breaker=BREAKER)
    desk.ready()
    for generation in range(1, 20):
        desk.died(generation, "killed")
        desk.ready(generation=generation + 1)
    assert desk.gate.breaker.closed


@pytest.mark.parametrize("told_first", [True, False], ids=["exit first", "connections first"])
def test_children_that_die_of_every_request_open_it(told_first: bool) -> None:
    desk = Desk(breaker=BREAKER, retry=RetryBounds(max_retries=10, delay_s=0.0))
    desk.ready()
    desk.ask()
    for generation in range(1, 4):
        assert desk.gate.breaker.closed
        crashed(desk, generation, told_first=told_first, cause="killed")
    assert not desk.gate.breaker.closed


# ---- how long it would take


def test_a_wait_that_cannot_end_in_time_is_refused_with_the_expected_one() -> None:
    desk = Desk(slots=1, queue_size=50)
    desk.ready()
    for _ in range(20):
        answered(desk, desk.ask(), seconds=10.0)
    queue = [desk.ask() for _ in range(7)]
    assert not desk.refused
    with pytest.raises(QueueTimeout) as told:
        enter(desk, b"")
    assert told.value.retry_after_s == pytest.approx(70.0)
    assert len(queue) == 7


def test_a_slotless_request_says_nothing_of_how_long_answers_take() -> None:
    desk = Desk(slots=1)
    desk.ready()
    for _ in range(20):
        quick = desk.ask(needs_slot=False)
        desk.gate.leave(quick)
    assert desk.ask() in at_child(desk)


def test_the_crash_of_a_generation_that_is_long_gone_is_no_news() -> None:
    desk = Desk()
    desk.ready()
    one = desk.ask()
    lose(desk, one)
    desk.died(1, "killed")
    desk.ready(generation=2)
    desk.admission.abort(DEMO, Generation(1))
    assert at_child(desk) == {one}
    assert desk.gate.open


def test_a_lost_request_of_a_stopped_model_is_told_why() -> None:
    desk = Desk()
    desk.ready()
    one = desk.ask()
    desk.admission.on_view(view("STOPPED", wanted=False))
    one.attempts += 1
    desk.gate.lost(one, UpstreamCrashed("gone"))
    assert desk.refused[one] == "model_unavailable"
