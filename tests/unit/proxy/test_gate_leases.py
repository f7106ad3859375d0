"""`proxy.gate`: a request takes as many slots as it makes answers, and is neither passed by nor ahead of anybody for it."""

from types import SimpleNamespace
from typing import Any

from supervisor.errors import LlmsupError
from supervisor.proxy.decision import WAIT
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.request_bounds import Demand
from tests.support.desk import FIELDS, Desk


def ask(desk: Desk, sequences: int, *, reads_only: bool = False) -> Exchange:
    """Whether it went at once is seen in ``desk.sent``."""
    connection: Any = SimpleNamespace(current=None)
    exchange = Exchange(connection, b"POST", b"/", FIELDS, "")
    exchange.gate = desk.gate
    exchange.demand = Demand(sequences=sequences, reads_only=reads_only)
    try:
        if desk.admission.decide(exchange) is not WAIT:
            desk.sent.append(exchange)
    except LlmsupError as error:
        desk.refused[exchange] = error.code
    return exchange


def ready(**more: int) -> Desk:
    desk = Desk(queue_size=20, **more)
    desk.ready()
    return desk


def test_each_answer_takes_a_slot():
    desk = ready(slots=4)
    three = ask(desk, 3)
    assert (desk.gate.leases, desk.admission.leases) == (3, 3)
    one = desk.ask()
    assert desk.sent == [three, one]
    assert desk.ask() not in desk.sent
    desk.gate.leave(three)
    assert len(desk.sent) == 3
    for exchange in list(desk.gate.active):
        desk.gate.leave(exchange)
    assert (desk.gate.leases, desk.admission.leases) == (0, 0)


def test_many_inputs_take_all_slots_and_no_more():
    desk = ready(slots=4)
    ask(desk, 2048, reads_only=True)
    assert (desk.gate.leases, desk.admission.leases) == (4, 4)


def test_nor_more_than_there_may_be_at_work_over_all_models():
    desk = ready(slots=8, concurrent=3)
    ask(desk, 8, reads_only=True)
    assert desk.gate.leases == 3


def test_who_needs_more_room_is_not_passed_by():
    desk = ready(slots=4)
    first = desk.ask()
    four = ask(desk, 4)
    late = desk.ask()  # a slot is free, and it is not its turn
    assert desk.sent == [first]
    desk.gate.leave(first)
    assert desk.sent == [first, four]
    desk.gate.leave(four)
    assert desk.sent == [first, four, late]


def test_who_needs_no_slot_waits_for_nobody():
    desk = ready(slots=4)
    desk.ask()
    ask(desk, 4)
    assert desk.ask(needs_slot=False) in desk.sent


def test_when_who_needed_more_room_has_left_the_others_go():
    desk = ready(slots=4)
    desk.ask()
    four = ask(desk, 4)
    desk.gate.leave(four)
    assert desk.ask() in desk.sent


def test_leases_at_a_former_generation_are_given_back_whole():
    desk = ready(slots=4)
    three = ask(desk, 3)
    desk.ready(generation=2)
    assert len({ask(desk, 2), ask(desk, 2)} & desk.gate.active) == 2  # its own have slots of their own
    desk.gate.leave(three)
    assert (desk.gate.leases, desk.gate._former.leases) == (4, 0)
