"""`proxy.admission`: who goes, who waits, who is refused; sockets aside (the queue at work is in
tests/integration/proxy/test_queueing.py).
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import ModelUnavailable, QueueFull
from supervisor.events import InstanceView
from supervisor.proxy.inflight import Exchange
from tests.support.desk import FIELDS, Desk
from tests.support.proxyrig import view

SOON, LATE = 1030.0, 1090.0


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (view("READY", port=1), "sent"),
        (view("STARTING"), "waits"),
        (view("LOADING"), "waits"),
        (view("DRAINING"), "waits"),
        (view("BACKOFF", next_try_at=SOON), "waits"),
        (view("BACKOFF", next_try_at=LATE), "model_unavailable"),
        (view("CRASHLOOP", next_try_at=LATE), "model_unavailable"),
        (view("FAILED"), "model_unavailable"),
        (view("STOPPED"), "model_unavailable"),
        (view("STOPPED", wanted=False), "model_unavailable"),
        (view("LOADING", wanted=False), "model_unavailable"),
        (view("UNKILLABLE"), "model_unavailable"),
    ],
    ids=lambda value: (
        f"{value.state}-{value.wanted}-{value.next_try_at}" if hasattr(value, "state") else value
    ),
)
@pytest.mark.parametrize("draining", [False, True])
def test_what_becomes_of_a_request(seen, expected, draining):
    desk = Desk()
    desk.admission.on_view(seen)
    if draining:
        desk.admission.drain()
    exchange = desk.ask()
    happened = "sent" if exchange in desk.sent else desk.refused.get(exchange, "waits")
    assert happened == ("model_unavailable" if draining else expected)


def test_slots_then_queue_then_refusal():
    desk = Desk(slots=2, queue_size=3)
    desk.ready()
    asked = [desk.ask() for _ in range(6)]
    assert desk.sent == asked[:2]
    assert list(desk.gate.waiting) == asked[2:5]
    assert desk.refused == {asked[5]: "queue_full"}
    desk.gate.leave(asked[0])
    assert desk.sent == asked[:3]
    assert repr(desk.gate) == "<Gate demo READY: 2 active, 2 waiting>"


def test_what_needs_no_slot_passes_a_full_gate():
    desk = Desk(slots=1)
    desk.ready()
    desk.ask()
    assert desk.ask(needs_slot=False) in desk.sent
    assert desk.gate.leases == 1


def test_a_lost_request_waits_in_front_and_the_generation_is_doubted_once():
    desk = Desk(slots=2)
    desk.ready()
    first, second, third = desk.ask(), desk.ask(), desk.ask()
    desk.attempt(second)
    desk.attempt(first)
    assert list(desk.gate.waiting) == [first, second, third]
    assert (desk.pokes, desk.gate.open) == (1, False)
    desk.checks = 1  # it has answered
    desk.ready()
    assert desk.sent[3:] == [first, second] or desk.sent[2:] == [first, second]


@pytest.mark.parametrize("news", ["generation", "checks"])
def test_doubt_ends_with_news(news):
    desk = Desk()
    desk.ready()
    desk.attempt(desk.ask())
    desk.ready()
    assert not desk.gate.open, "the same view again is no news"
    if news == "checks":
        desk.checks += 1
    desk.ready(generation=2 if news == "generation" else 1)
    assert desk.gate.open
    assert not desk.gate.waiting


def test_retries_are_limited():
    desk = Desk()
    desk.ready()
    exchange = desk.ask()
    for _ in range(3):
        assert exchange not in desk.refused
        desk.attempt(exchange)
        desk.checks += 1
        desk.ready()
    assert desk.refused == {exchange: "upstream_crashed"}


def test_waiting_has_an_end_for_each_by_itself():
    desk = Desk(slots=1, queue_size=10)
    desk.ready()
    active, old = desk.ask(), desk.ask()
    desk.time += 40
    desk.admission.on_view(view("BACKOFF"))
    desk.attempt(active)
    desk.time += 25
    desk.admission.sweep(desk.time)
    assert desk.refused == {old: "model_loading"}
    assert list(desk.gate.waiting) == [active]
    desk.time += 40
    desk.admission.sweep(desk.time)
    assert desk.refused == {old: "model_loading", active: "model_loading"}
    assert desk.admission.waiting == 0


def test_too_late_for_a_slot_is_another_thing_than_too_late_for_a_model():
    desk = Desk(slots=1)
    desk.ready()
    desk.ask()
    waiting = desk.ask()
    desk.time += 61
    desk.admission.sweep(desk.time)
    assert desk.refused == {waiting: "queue_timeout"}


def test_an_emptied_queue_says_of_each_how_long_it_waited():
    desk = Desk(slots=1)
    desk.ready()
    desk.ask()
    waiting = desk.ask()
    desk.time += 3
    desk.admission.on_view(view("FAILED"))
    assert desk.refused == {waiting: "model_unavailable"}
    assert (waiting.queue_ms, waiting.waiting_since, desk.admission.waiting) == (3000, 0.0, 0)


def test_refusals_say_when_to_come_back():
    desk = Desk(queue_size=0)
    with pytest.raises(QueueFull) as full:
        desk.gate.enter(Exchange(SimpleNamespace(current=None), b"POST", b"/", FIELDS, ""))
    desk.admission.on_view(view("CRASHLOOP", next_try_at=1300.0))
    with pytest.raises(ModelUnavailable) as away:
        desk.gate.enter(Exchange(SimpleNamespace(current=None), b"POST", b"/", FIELDS, ""))
    assert (full.value.retry_after_s, away.value.retry_after_s) == (1.0, 300.0)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "ask", "small", "leave", "lost", "down", "up", "alive", "failed", "tick"]
        ),
        st.integers(0, 10),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_the_books_balance(operations):
    desk = Desk(slots=2, concurrent=3, queue_size=4)
    asked: list[Exchange] = []
    generation = 1
    for what, which in operations:
        present = [one for one in asked if one in desk.gate.active or one in desk.gate.waiting]
        active = [one for one in present if one in desk.gate.active]
        if what in {"ask", "small"}:
            asked.append(desk.ask(needs_slot=what == "ask"))
        elif what == "leave" and present:
            desk.gate.leave(present[which % len(present)])
        elif what == "lost" and active:
            desk.attempt(active[which % len(active)])
        elif what in {"down", "failed"}:
            desk.admission.on_view(view("BACKOFF" if what == "down" else "FAILED"))
        elif what in {"up", "alive"}:
            generation += what == "up"
            desk.checks += 1
            desk.ready(generation)
        elif what == "tick":
            desk.time += 7 * which
            desk.admission.sweep(desk.time)
        gate = desk.gate
        assert desk.admission.waiting == len(gate.waiting) == len(set(gate.waiting)) <= 4 + len(asked)
        assert not gate.active & set(gate.waiting)
        assert gate.leases == desk.admission.leases == sum(one.leased for one in gate.active) <= 3
        here = sum(one.leased and one.sent_to == gate._pool_generation for one in gate.active)
        assert gate.leases - gate._former.leases == here <= 2, "each generation has its own slots"
        assert not (gate.active | set(gate.waiting)) & desk.refused.keys()
        if gate.open and gate.waiting:
            assert here == 2 or gate.leases == 3, "who waits, waits for something"


def removed(seen: InstanceView) -> InstanceView:
    return replace(seen, removed=True)


def test_a_model_that_is_removed_is_not_offered_and_refuses_what_waits():
    desk = Desk(slots=1)
    desk.ready()
    inside, waiting = desk.ask(), desk.ask()
    desk.admission.on_view(removed(view("READY", port=1, slots=1)))
    assert (desk.admission.offered, list(desk.admission.gates)) == ({}, ["demo"])
    desk.admission.on_view(removed(view("DRAINING", wanted=False)))
    assert desk.refused == {waiting: "model_unavailable"}
    assert inside in desk.gate.active
    desk.gate.leave(inside)
    desk.admission.remove(desk.gate.view.name)
    assert (desk.admission.gates, list(desk.admission._turns), desk.admission.waiting) == ({}, [], 0)


def test_a_model_that_comes_back_is_offered_again_and_an_added_one_takes_its_turn():
    desk = Desk()
    desk.ready()
    desk.admission.on_view(removed(view("READY", port=1)))
    desk.ready()
    desk.admission.add(view("LOADING", name="other"))
    assert list(desk.admission.offered) == list(desk.admission.gates) == ["demo", "other"]
    assert [gate.view.name for gate in desk.admission._turns] == ["demo", "other"]
