"""Two generations at a gate: the old one finishes what it has, the new one has all its slots; and models on demand."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from supervisor.events import Death, InstanceView
from supervisor.proc.hang import Standing
from supervisor.proxy.breaker import BreakerBounds, BreakerState
from supervisor.proxy.former import Former
from supervisor.types import Generation
from tests.support.desk import Desk
from tests.support.proxyrig import DEMO, view


def test_the_next_one_has_all_its_slots_while_the_old_one_is_full() -> None:
    desk = Desk(slots=2)
    desk.ready()
    old = [desk.ask() for _ in range(3)]
    assert desk.sent == old[:2]
    desk.ready(generation=2)
    new = desk.ask()
    assert desk.sent == [*old, new], "who waited goes first"
    late = desk.ask()
    assert late not in desk.sent
    for one in old[:2]:
        desk.gate.leave(one)
    assert late not in desk.sent, "a slot that is free at the old one is none"
    desk.gate.leave(new)
    assert desk.sent[-1] is late
    assert repr(desk.gate._former) == "<Former 1: 0 leases>"


def test_the_ceiling_over_all_counts_the_old_one_too() -> None:
    desk = Desk(slots=2, concurrent=3)
    desk.ready()
    desk.ask(), desk.ask()
    desk.ready(generation=2)
    desk.ask()
    last = desk.ask()
    assert last not in desk.sent
    assert desk.admission.leases == 3


def test_what_the_old_one_drops_goes_to_the_new_one_at_once_which_is_not_in_doubt() -> None:
    desk = Desk()
    desk.ready()
    one = desk.ask()
    desk.ready(generation=2)
    desk.attempt(one)
    assert (desk.sent, one.sent_to) == ([one, one], 2)
    assert (desk.pokes, desk.gate._former.leases, desk.gate.leases) == (0, 0, 1)
    assert desk.gate.open


def test_the_end_of_the_old_one_is_not_a_failure_of_the_new_one() -> None:
    desk = Desk(breaker=BreakerBounds(failure_threshold=1))
    desk.ready()
    desk.ready(generation=2)
    desk.ask()
    ended = Death(datetime.now(UTC), Generation(1), "restarted", None, 0, 1.0, "")
    desk.admission.on_view(replace(view(port=1, generation=2), last_death=ended))
    assert desk.gate.breaker.state is BreakerState.CLOSED
    crashed = Death(datetime.now(UTC), Generation(2), "segfault", None, 1, 1.0, "")
    desk.admission.on_view(replace(view("STARTING", generation=3), last_death=crashed))
    assert desk.gate.breaker.state is BreakerState.OPEN


def test_the_old_one_is_drained_when_its_own_are_answered() -> None:
    async def story() -> None:
        desk = Desk()
        desk.ready()
        old = desk.ask()
        desk.ready(generation=2)
        desk.ask()
        drained = asyncio.create_task(desk.admission.drained(DEMO, Generation(1), 60.0))
        await asyncio.sleep(0)
        assert not drained.done()
        desk.gate.leave(old)
        await asyncio.wait_for(drained, 1.0)

    asyncio.run(story())


def test_its_connections_are_closed_with_it_and_the_new_ones_stay() -> None:
    desk = Desk()
    desk.ready()
    old = desk.gate.pool
    desk.ready(generation=2)
    assert not old.closed
    desk.admission.abort(DEMO, Generation(1))
    assert (old.closed, desk.gate.pool.closed) == (True, False)
    Former().close(Generation(7))  # never heard of


def test_nobody_stands_still_in_a_generation_that_has_no_requests() -> None:
    desk = Desk()
    desk.ready(generation=2)
    assert desk.admission.standing(DEMO, Generation(1)) == Standing(0, 0.0)
    assert desk.admission.standing(DEMO, Generation(2)) == Standing(0, desk.time)


# ---- models on demand


def unloaded(state: str = "STOPPED") -> InstanceView:
    return replace(view(state, wanted=False), on_demand=True)


def test_a_request_for_an_unloaded_model_waits_and_says_that_it_is_wanted() -> None:
    desk = Desk()
    desk.admission.on_view(unloaded())
    one = desk.ask()
    assert (desk.wanted, desk.refused, list(desk.gate.waiting)) == ([DEMO], {}, [one])
    desk.ready(generation=2)
    assert desk.sent == [one]


@pytest.mark.parametrize("state", ["DRAINING", "STOPPING", "STOPPED"])
def test_who_waits_while_it_is_unloaded_brings_it_back(state: str) -> None:
    desk = Desk(slots=1)
    desk.ready()
    desk.ask()
    waiting = desk.ask()
    desk.admission.on_view(unloaded(state))
    assert desk.wanted == [DEMO]
    assert not desk.refused
    assert list(desk.gate.waiting) == [waiting]


def test_without_the_promise_it_is_refused_at_once() -> None:
    desk = Desk()
    desk.admission.on_view(view("STOPPED", wanted=False))
    assert list(desk.refused.values()) == []
    one = desk.ask()
    assert (desk.refused, desk.wanted) == ({one: "model_unavailable"}, [])


def test_a_long_wait_for_memory_is_cut_short_by_a_request() -> None:
    desk = Desk()
    crowded = replace(view("CRASHLOOP", next_try_at=desk.time + 300), on_demand=True)
    desk.admission.on_view(crowded)
    desk.ask()
    assert (desk.wanted, desk.refused) == ([DEMO], {})


def test_usage_tells_who_is_at_work_and_how_many_there_were() -> None:
    desk = Desk(slots=1)
    desk.ready()
    first, second = desk.ask(), desk.ask()
    assert (desk.admission.usage(DEMO).busy, desk.admission.usage(DEMO).asked) == (True, 1)
    desk.gate.leave(first)
    desk.gate.leave(second)
    assert (desk.admission.usage(DEMO).busy, desk.admission.usage(DEMO).asked) == (False, 2)
