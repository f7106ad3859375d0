"""`proxy.turns`: what each request costs its client's turns, and one large prompt at a time; whose turn it is then, the
tests of `ratelimit.fairqueue` tell.
"""

import pytest

from supervisor.proxy.inflight import Client, Exchange
from supervisor.proxy.prefills import LARGE_BYTES
from supervisor.proxy.turns import EQUAL, Share, Turns
from supervisor.proxy.usage import Meter, Usage
from supervisor.ratelimit.vtc import UNIT
from tests.support.desk import FIELDS, Desk

TOKEN = b'data: {"stop":false}\n\n'


class Child:
    """What waits, and what has gone."""

    def __init__(self, shares: dict[str, Share] | None = None) -> None:
        self.shares = shares if shares is not None else {}
        self.active: set[Exchange] = set()
        self.turns = Turns(self.shares, self.active)

    def of(
        self, client: str, size: int = 40, *, pool: str = "user", needs_slot: bool = True, mark: bytes = b"x"
    ) -> Exchange:
        exchange = Exchange(None, b"POST", b"/", FIELDS, "")  # type: ignore[arg-type]  # nobody answers
        exchange.client = Client(client, client.encode(), pool)
        exchange.path, exchange.body, exchange.needs_slot = b"/completion", mark * size, needs_slot
        return exchange

    def wait(self, *exchanges: Exchange) -> None:
        for exchange in exchanges:
            self.turns.add(exchange)

    def go(self, exchange: Exchange) -> Exchange:
        exchange.leased = exchange.needs_slot
        self.active.add(exchange)
        self.turns.go(exchange)
        return exchange

    def next(self, *, free: bool = True) -> Exchange | None:
        return next(self.turns.in_turn(free=free), None)

    def over(self, exchange: Exchange, usage: Usage | None = None) -> None:
        exchange.usage = usage
        self.active.discard(exchange)
        self.turns.over(exchange)

    def counter(self, client: str) -> float:
        """In weighted tokens above the level at which newcomers come in."""
        line = self.turns._queue._interactive
        return (line.accounts[client].counter - line.level) / UNIT


def test_while_nobody_waits_nobody_is_counted():
    child = Child()
    one = child.go(child.of("ann"))
    assert (one.in_turn, one.charged, child.turns._queue.clients) == (False, 0.0, 0)
    child.over(one, Usage(100, 50))
    assert not child.turns._queue._interactive.accounts


def test_what_is_at_the_child_counts_from_the_first_that_waits():
    child = Child()
    running, small = child.go(child.of("ann")), child.go(child.of("ann", needs_slot=False))
    child.wait(child.of("bob"))
    assert (running.in_turn, small.in_turn) == (True, False)
    assert running.charged == 10  # forty bytes


def test_a_request_costs_its_prompt_then_its_answer_and_in_the_end_what_it_was():
    child = Child()
    child.wait(one := child.of("ann"), child.of("bob"))
    child.go(one)
    assert child.counter("ann") == 10
    one.meter = Meter(one.path)
    one.meter.add(TOKEN * 5)
    child.next()
    assert child.counter("ann") == 10 + 2 * 5
    one.meter.add(TOKEN * 2)
    child.over(one, Usage(prompt=30, completion=8, cached=24))
    assert one.charged == (30 - 24) + 2 * 8
    assert one.in_turn is False


def test_one_that_comes_back_is_not_charged_for_its_prompt_again():
    child = Child()
    child.wait(one := child.of("ann"), child.of("bob"))
    child.go(one)
    child.over(one)
    child.turns.add(one, first=True)
    assert child.next() is one
    child.go(one)
    assert one.charged == 10
    child.over(one)
    accounts = child.turns._queue._interactive.accounts
    assert all(account.held == 0 for account in accounts.values())


@pytest.mark.parametrize(
    ("pool", "batch", "header"), [("user", False, False), ("bulk", True, False), ("user", True, True)]
)
def test_who_is_batch_by_pool_or_by_wish_goes_after_the_others(pool, batch, header):
    child = Child({"bulk": Share(1.0, batch=True)})
    one = child.of("ann", pool=pool)
    if header:
        one.fields = one.fields.__class__(**{**_fields(one), "batch": True})
    child.wait(one, other := child.of("bob"))
    child.go(child.of("cid"))
    assert one.share is not None
    assert one.share.batch is batch
    assert child.next() is (other if batch else one)


def _fields(exchange):
    fields = exchange.fields
    return {name: getattr(fields, name) for name in fields.__dataclass_fields__}


def test_a_share_that_changes_meanwhile_counts_for_the_next_request():
    child = Child({"user": Share(1.0, batch=True)})
    child.wait(one := child.of("ann"))
    child.shares["user"] = EQUAL
    child.go(one)
    child.over(one)  # in the class it came in
    child.wait(two := child.of("ann"))
    assert (one.share, two.share) == (Share(1.0, batch=True), EQUAL)


def test_what_needs_no_slot_goes_where_none_is_free():
    child = Child()
    child.wait(child.of("ann"))
    assert child.next(free=False) is None
    child.wait(small := child.of("bob", needs_slot=False))
    assert child.next(free=False) is small
    assert child.turns.remove(small)
    assert not child.turns.remove(small)
    assert child.next(free=False) is None


# ---- one large prompt at a time


def test_a_second_large_prompt_waits_until_the_first_is_read_if_others_wait():
    child = Child()
    one, two = child.of("ann", LARGE_BYTES), child.of("ann", LARGE_BYTES, mark=b"y")
    child.wait(one, two, small := child.of("bob", LARGE_BYTES - 1))
    child.go(one)
    assert list(child.turns.in_turn(free=True)) == [small]
    assert not child.turns.passes(child.of("cid", LARGE_BYTES, mark=b"z"))
    assert child.turns.passes(child.of("cid"))
    assert child.turns.first_token(one)
    assert not child.turns.first_token(one), "told once"
    assert set(child.turns.in_turn(free=True)) == {two, small}


def test_large_prompts_go_together_where_nobody_else_waits():
    child = Child()
    one, two = child.of("ann", LARGE_BYTES), child.of("bob", LARGE_BYTES)
    child.wait(one, two)
    child.go(one)
    assert child.next() is two
    assert child.turns.passes(child.of("cid", LARGE_BYTES))


@pytest.mark.parametrize("end", ["over", "lost"])
def test_one_that_is_not_read_to_the_end_holds_up_nobody(end):
    child = Child()
    one, two = child.of("ann", LARGE_BYTES), child.of("bob", LARGE_BYTES)
    child.wait(one, two, child.of("cid"))
    child.go(one)
    assert two not in child.turns.in_turn(free=True)
    child.over(one)
    if end == "lost":
        child.turns.add(one, first=True)
    assert two in child.turns.in_turn(free=True)


def test_a_prompt_that_is_cached_is_not_large_until_the_cache_is_empty():
    child = Child()
    child.over(child.go(child.of("ann", LARGE_BYTES)), Usage(2048, 1))
    child.wait(again := child.of("ann", LARGE_BYTES), other := child.of("ann", LARGE_BYTES, mark=b"y"))
    assert (again.large, other.large) == (False, True)
    child.turns.forget_cache()
    child.wait(once_more := child.of("ann", LARGE_BYTES))
    assert once_more.large


# ---- at a gate


def sized(desk: Desk, size: int, client: str) -> Exchange:
    exchange = Exchange(None, b"POST", b"/", FIELDS, "")  # type: ignore[arg-type]  # nobody answers
    exchange.client, exchange.body, exchange.gate = Client(client, b""), b"x" * size, desk.gate
    if desk.gate.enter(exchange):
        desk.sent.append(exchange)
    return exchange


def test_a_large_newcomer_does_not_pass_one_that_is_held():
    desk = Desk(slots=3)
    desk.ready()
    reading = sized(desk, LARGE_BYTES, "ann")
    lost = sized(desk, 10, "bob")
    lost.delayed = True
    lost.attempts += 1
    desk.gate._deactivate(lost)
    desk.gate._wait(lost, first=True)  # a slot is free, but this one may not go yet
    newcomer = sized(desk, LARGE_BYTES, "cid")
    assert newcomer in desk.gate.waiting
    desk.gate.first_token(reading)
    assert newcomer in desk.gate.active


def test_a_large_stream_that_goes_on_is_read_with_its_first_new_token():
    desk = Desk(slots=3)
    desk.ready()
    one = sized(desk, LARGE_BYTES, "ann")
    one.meter = Meter(b"/completion")
    one.count(TOKEN)
    at = one.first_token_at
    desk.time += 5
    one.answering, one.continued = True, 1
    desk.attempt(one)
    desk.ready(generation=2)
    assert desk.gate.waiting._reading == {one}
    one.count(TOKEN)
    assert not desk.gate.waiting._reading
    assert one.first_token_at == at, "the client's first token came long ago"
