"""The verdicts without Redis, and what becomes of answers; a real Redis is asked in tests/integration."""

import pytest

from supervisor.ratelimit import store_redis
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import FREE, Grant, Limiter, Refused
from supervisor.ratelimit.pools import pool
from supervisor.ratelimit.store_line import Lost, State
from supervisor.ratelimit.store_redis import SharedGrant, SharedLimiter, Unavailable
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio

POOLS = {"anonymous": pool("anonymous", requests_per_minute=60)}
REDIS_US = 10**15  # what its clock says


class FakeLine:
    """Notes what is asked and posted; the test answers."""

    def __init__(self, url, *, clock, deadline_s, on_connected):
        self.state = State.CONNECTED
        self.reason = "gone"
        self.retry_s = 0.4
        self.asked = []
        self.posted = []

    def ask(self, call):
        if self.state is State.AWAY:
            return False
        self.asked.append(call)
        return True

    def post(self, call):
        self.posted.append(call)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def made(monkeypatch, clock):
    monkeypatch.setattr(store_redis, "Line", FakeLine)

    def make(on_failure="local"):
        return SharedLimiter(
            "redis://h",
            POOLS,
            shared=None,
            local=Limiter(POOLS),
            on_failure=on_failure,
            clock=clock,
            name="a",
        )

    return make


def answered(limiter, verdict, answer):
    limiter._line.asked[-1].done(answer)
    return verdict.result()


async def test_an_admission_and_its_end(made, clock):
    limiter = made()
    grant = answered(
        limiter, limiter.ask("ann", "anonymous", 7), b"1 %d 1 %d 0" % (REDIS_US, REDIS_US + 10**6)
    )
    assert isinstance(grant, SharedGrant)
    assert [one.remaining for one in grant.standings(1000 * SECOND_NS)] == [59]
    grant.refund(1000 * SECOND_NS)
    (finish,) = limiter._line.posted
    assert (finish.script, finish.lasting, finish.words) == (
        "finish",
        True,
        [grant.lease, "rpm 60 60000000 -1000000 0"],
    )


async def test_a_refusal_is_repeated_without_asking_until_it_is_over(made, clock):
    limiter = made()
    full = REDIS_US + 60 * 10**6
    refused = answered(limiter, limiter.ask("ann", "anonymous", 7), b"0 %d 0 %d 0" % (REDIS_US, full))
    assert refused == Refused(SECOND_NS, "rpm", shared=False)
    await clock.advance(0.75)
    assert limiter.ask("ann", "anonymous", 7).result() == Refused(SECOND_NS // 4, "rpm", shared=False)
    assert [one.reset_ns for one in limiter.standings("ann", "anonymous", 1000 * SECOND_NS)] == [SECOND_NS]
    await clock.advance(0.25)
    assert not limiter.ask("ann", "anonymous", 7).done()
    assert len(limiter._line.asked) == 2


@pytest.mark.parametrize(
    ("answer", "taken_back"),
    [(Lost("gone", perhaps_done=True), 1), (Lost("gone", perhaps_done=False), 0), (b"what?", 0), (b"1 5", 0)],
)
async def test_no_answer_is_a_verdict_all_the_same(made, answer, taken_back):
    limiter = made()
    assert type(answered(limiter, limiter.ask("ann", "anonymous", 7), answer)) is Grant
    assert [call.script for call in limiter._line.posted] == ["finish"] * taken_back
    cancelled = limiter.ask("ann", "anonymous", 7)
    cancelled.cancel()
    limiter._line.asked[-1].done(answer)


async def test_what_decides_while_redis_is_away(made):
    verdicts = {}
    for on_failure in ("local", "allow", "deny"):
        limiter = made(on_failure)
        limiter._line.state = State.AWAY
        verdicts[on_failure] = [await limiter.admit("ann", "anonymous", 7) for _ in range(61)]
    assert [type(one) for one in verdicts["local"]] == [Grant] * 60 + [Refused]
    assert set(verdicts["allow"]) == {FREE}
    assert set(verdicts["deny"]) == {Unavailable(1.0, "gone")}
