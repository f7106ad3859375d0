"""`proxy.limits`: stage 4 alone, with a limiter, a store and a counter of paper; what is charged at the end."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.proxy.inflight import LEFT, Client, Exchange
from supervisor.proxy.limits import Limits, LimitsUnavailable, RateLimited, TooManyAtOnce
from supervisor.proxy.request_bounds import Demand
from supervisor.proxy.usage import Meter, Usage
from supervisor.ratelimit.limiter import Grant, Limiter
from supervisor.ratelimit.pools import pool
from supervisor.ratelimit.store_redis import Unavailable
from tests.support.clock import FakeClock
from tests.support.desk import FIELDS
from tests.support.proxyrig import view

POOLS = {"anonymous": pool("anonymous", requests_per_hour=3, tokens_per_day=10_000, concurrent=2)}
BODY = b"x" * 400  # a hundred tokens, by guess
GUESS = 100 + 256


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test with an event loop."""

    @functools.wraps(test)
    def ran(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return ran


class Stage:
    """Stage 4 of one client, and what went on behind it."""

    def __init__(self, **more: Any) -> None:
        self.clock = FakeClock()
        self.limiter = Limiter(POOLS)
        self.limits = Limits(self.limiter, POOLS, self.clock, **more)
        self.went_on: list[tuple[Exchange, object]] = []
        self.limits.open(self._go_on)

    def _go_on(self, exchange: Exchange, decide: Any) -> None:
        try:
            outcome = decide()
        except Exception as error:
            outcome = error
        self.went_on.append((exchange, outcome))

    def exchange(self, path: bytes = b"/completion", method: bytes = b"POST", body: bytes = BODY) -> Exchange:
        connection = SimpleNamespace(current=None)
        exchange = Exchange(connection, method, b"/", FIELDS, "")  # type: ignore[arg-type]  # of paper
        connection.current = exchange
        exchange.path, exchange.body = path, body
        exchange.client = Client("ip:192.0.2.1", b"ip:192.0.2.1")
        exchange.gate = SimpleNamespace(view=view("READY", port=1), open=True)  # type: ignore[assignment]  # of paper
        return exchange

    def left(self, name: str) -> int:
        standings = self.limiter.standings("ip:192.0.2.1", "anonymous", self.clock.now_ns())
        return next(one.remaining for one in standings if one.limit.name == name)

    @property
    def at_once(self) -> int:
        account = self.limiter._accounts.get("ip:192.0.2.1")
        return 0 if account is None else account.in_flight


def leave(exchange: Exchange) -> None:
    exchange.connection.current = None


# ---- what a request costs in the end


def metered(tokens: int) -> Meter:
    meter = Meter(b"/completion")
    meter.add(b'data: {"stop":false}\n\n' * tokens)
    return meter


TWO = Demand(sequences=2)

ENDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "never sent": ({"attempts": 0}, 0, 0),
    "refused after it was sent": ({"unserved": True}, 0, 0),
    "refused for its own fault": ({"attempts": 0, "unserved": True, "own_fault": True}, 1, 0),
    "the same after it was sent": ({"unserved": True, "own_fault": True}, 1, 0),
    "inside at a crash, and refused": ({"unserved": True, "crashes": 2}, 1, GUESS),
    "inside at a crash of another's": ({"unserved": True, "excused": 1}, 1, GUESS),
    "inside at a crash, and left": ({"status": LEFT, "crashes": 1}, 1, GUESS),
    "it was told what it took": ({"usage": Usage(50, 7), "status": 200}, 1, 57),
    "the prompt was not told": ({"usage": Usage(0, 7), "status": 200}, 1, 107),
    "nobody knows": ({"status": 200}, 1, 100 + 4096),
    "nobody knows, and it had a cap": ({"status": 200, "asked": {"max_tokens": 400}}, 1, 500),
    "of two only one was told": ({"usage": Usage(5, 7), "demand": TWO, "status": 200}, 1, 100 + 2 * 4096),
    "both of two were told": ({"usage": Usage(9, 7, answers=2), "demand": TWO, "status": 200}, 1, 16),
    "two were counted": ({"usage": Usage(5, 7), "meter": metered(90), "demand": TWO, "status": 200}, 1, 190),
    "left with a part that was not counted": ({"status": LEFT, "answering": True}, 1, 100 + 4096),
    "left in the middle": ({"meter": metered(9), "status": LEFT}, 1, 109),
    "left before the first token": ({"status": LEFT}, 1, GUESS),
    "llama-server refused it": ({"status": 400}, 1, 0),
    "llama-server failed at it": ({"status": 500}, 1, 0),
    "cut in the middle": ({"meter": metered(9), "status": 502}, 1, 109),
}


@pytest.mark.parametrize(("became", "requests", "tokens"), ENDS.values(), ids=ENDS.keys())
def test_what_a_request_costs_by_what_has_become_of_it(became, requests, tokens):
    stage = Stage()
    exchange = stage.exchange()
    stage.limits.decide(exchange)
    assert (stage.left("rph"), stage.left("tpd"), stage.at_once) == (2, 10_000 - GUESS, 1)
    exchange.attempts = 1
    for name, value in became.items():
        setattr(exchange, name, value)
    stage.limits.end(exchange)
    stage.limits.end(exchange)  # once is enough
    assert (stage.left("rph"), stage.left("tpd"), stage.at_once) == (3 - requests, 10_000 - tokens, 0)


def test_only_reading_our_own_answers_is_free():
    stage = Stage()
    for method in (b"GET", b"HEAD"):
        exchange = stage.exchange(b"/health", method)
        assert stage.limits.decide(exchange) is None
        assert exchange.grant is None
    for _ in range(2):
        stage.limits.decide(stage.exchange(b"/health"))  # a POST goes to llama-server
    with pytest.raises(TooManyAtOnce):
        stage.limits.decide(stage.exchange(b"/health"))


# ---- where the prompt is counted first


class Counter:
    def __init__(self) -> None:
        self.asked = 0
        self.told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def worth(self, exchange: Exchange) -> bool:
        return True

    async def count(self, exchange: Exchange) -> int | None:
        self.asked += 1
        return await self.told


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("told", "tokens"), [(1000, 1256), (None, GUESS), (RuntimeError("odd"), GUESS)])
@run
async def test_a_request_whose_prompt_is_counted_goes_on_whatever_is_said(told, tokens):
    counter = Counter()
    stage = Stage(counter=counter)
    exchange = stage.exchange()
    assert stage.limits.decide(exchange) is not None
    await settle()
    assert (stage.went_on, stage.at_once) == ([], 0)
    if isinstance(told, Exception):
        counter.told.set_exception(told)
    else:
        counter.told.set_result(told)
    await settle()
    assert stage.went_on == [(exchange, None)]
    assert stage.left("tpd") == 10_000 - tokens


@run
async def test_who_left_while_the_prompt_was_counted_is_not_charged():
    counter = Counter()
    stage = Stage(counter=counter)
    exchange = stage.exchange()
    stage.limits.decide(exchange)
    await settle()
    leave(exchange)
    stage.limits.end(exchange)
    counter.told.set_result(1000)
    await settle()
    assert (stage.went_on, stage.left("rph"), stage.at_once) == ([], 3, 0)


@run
async def test_nothing_is_counted_for_who_has_nothing_left():
    counter = Counter()
    stage = Stage(counter=counter)
    for _ in range(3):
        granted(stage).settle(None, stage.clock.now_ns())
    with pytest.raises(RateLimited):
        stage.limits.decide(stage.exchange())
    assert counter.asked == 0


# ---- where a store decides


class Store:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.verdict: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def ask(self, client: str, pool: str, tokens: int) -> asyncio.Future[Any]:
        return self.verdict

    def refused_locally(self, *_: object) -> None:
        return None


def granted(stage: Stage) -> Grant:
    grant = stage.limiter.admit("ip:192.0.2.1", "anonymous", GUESS, stage.clock.now_ns())
    assert isinstance(grant, Grant)
    return grant


@run
async def test_a_request_waits_for_the_store_and_goes_on():
    store = Store()
    stage = Stage(store=store)
    exchange = stage.exchange()
    assert stage.limits.decide(exchange) is not None
    assert exchange.grant is None
    store.verdict.set_result(grant := granted(stage))
    await settle()
    assert stage.went_on == [(exchange, None)]
    assert exchange.grant is grant
    assert b'"rph";r=2' in exchange.lines


@run
async def test_a_verdict_that_is_there_at_once_is_not_waited_for():
    store = Store()
    stage = Stage(store=store)
    store.verdict.set_result(granted(stage))
    exchange = stage.exchange()
    assert stage.limits.decide(exchange) is None
    assert exchange.grant is store.verdict.result()


@pytest.mark.parametrize("outcome", ["granted", "unavailable"])
@run
async def test_who_left_while_the_store_was_asked_gets_everything_back(outcome):
    store = Store()
    stage = Stage(store=store)
    exchange = stage.exchange()
    stage.limits.decide(exchange)
    leave(exchange)
    stage.limits.end(exchange)
    store.verdict.set_result(granted(stage) if outcome == "granted" else Unavailable(1.0, "away"))
    await settle()
    assert (stage.went_on, stage.left("rph"), stage.left("tpd"), stage.at_once) == ([], 3, 10_000, 0)


@run
async def test_nobody_is_admitted_where_the_store_is_away_and_the_operator_wants_it_so():
    store = Store()
    stage = Stage(store=store)
    stage.limits.decide(stage.exchange())
    store.verdict.set_result(Unavailable(2.5, "no answer"))
    await settle()
    [(_, error)] = stage.went_on
    assert isinstance(error, LimitsUnavailable)
    assert (error.status, error.retry_after_s) == (503, 2.5)


@run
async def test_a_store_that_fails_leaves_nobody_waiting():
    store = Store()
    stage = Stage(store=store)
    stage.limits.decide(stage.exchange())
    store.verdict.set_exception(RuntimeError("odd"))
    await settle()
    [(_, error)] = stage.went_on
    assert isinstance(error, RuntimeError)


def test_who_shows_a_key_has_no_part_in_what_names_share() -> None:
    pools = {name: pool(name, requests_per_minute=10) for name in ("anonymous", "user", "user+keys")}
    shared = {"user": pool("user", requests_per_minute=2, shared=True)}
    clock = FakeClock()
    limits = Limits(Limiter(pools, shared=shared), pools, clock, shared=shared)
    stage = Stage()

    def ask(client: Client) -> None:
        exchange = stage.exchange()
        exchange.client = client
        limits.decide(exchange)

    ask(Client("user:a", b"user:a", "user"))
    ask(Client("user:b", b"user:b", "user"))
    with pytest.raises(RateLimited):
        ask(Client("user:c", b"user:c", "user"))
    key: Any = SimpleNamespace()
    for _ in range(10):
        ask(Client("key:k", b"key:k", "user", key))
    with pytest.raises(RateLimited):  # its own are the pool's
        ask(Client("key:k", b"key:k", "user", key))
