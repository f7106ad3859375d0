"""The line to Redis with the clock in our hands and a Redis that is a list of answers."""

import asyncio

import pytest
from structlog.testing import capture_logs

from supervisor.ratelimit import store_line
from supervisor.ratelimit.store_line import LONGEST_PAUSE_S, PROBE, Call, Line, Lost, State, address_of
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio


class FakeRedis:
    """``refuses``: raised by whatever is asked; ``answers``: of the next calls, by their first word."""

    def __init__(self):
        self.refuses = None
        self.answers = {}
        self.connections = 0
        self.batches = []
        self.forgotten = False
        self.held = asyncio.Event()  # answers come when it is set
        self.held.set()

    def __call__(self):
        self.connections += 1
        return self

    async def script_load(self, source):
        if self.refuses:
            raise self.refuses
        self.forgotten = False
        return str(len(source))

    def pipeline(self, *, transaction):
        return FakePipeline(self)

    async def aclose(self):
        pass


class FakePipeline:
    def __init__(self, redis):
        self.redis = redis
        self.words = []

    def evalsha(self, sha, count, *rest):
        self.words.append(str(rest[count]))

    async def execute(self, raise_on_error):
        await asyncio.sleep(0)
        await self.redis.held.wait()
        if self.redis.refuses:
            raise self.redis.refuses
        if self.redis.forgotten:
            return [NoScriptError() for _ in self.words]
        if self.words != [str(PROBE.words[0])]:
            self.redis.batches.append(self.words)
        return [self.redis.answers.get(word, b"ok " + word.encode()) for word in self.words]


class NoScriptError(Exception):
    pass


class OutOfMemoryError(Exception):
    pass


class Rig:
    def __init__(self, monkeypatch):
        self.redis = FakeRedis()
        monkeypatch.setattr(store_line, "_opener", lambda *_: self.redis)
        self.clock = FakeClock()
        self.connections = 0
        self.answers = []
        self.line = Line("redis://h", clock=self.clock, deadline_s=0.25, on_connected=self.connected)

    def connected(self):
        self.connections += 1

    def ask(self, word):
        return self.line.ask(Call("decide", ["k"], [word], self.answers.append))

    def post(self, word, *, lasting=True):
        self.line.post(Call("finish", ["k"], [word], lasting=lasting))

    async def fail(self, error):
        """Redis fails at the next call, which is asked for that."""
        self.redis.refuses = error
        self.ask("last")
        await self.clock.settle()
        assert self.line.state is State.AWAY


@pytest.fixture
async def rig(monkeypatch):
    it = Rig(monkeypatch)
    runner = asyncio.create_task(it.line.run())
    yield it
    runner.cancel()
    await asyncio.wait([runner])


async def test_what_is_asked_meanwhile_goes_together_and_after_what_was_posted(rig):
    await rig.clock.settle()
    rig.ask("1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rig.ask("2")
    rig.post("a")
    rig.ask("3")
    await rig.clock.settle()
    assert rig.redis.batches == [["1"], ["a", "2", "3"]]
    assert rig.answers == [b"ok 1", b"ok 2", b"ok 3"]


async def test_a_flood_of_posts_leaves_room_for_who_asks(rig, monkeypatch):
    monkeypatch.setattr(store_line, "MAX_BATCH", 4)
    await rig.clock.settle()
    for word in "abcd":
        rig.post(word)
    rig.ask("1")
    await rig.clock.settle()
    assert rig.redis.batches == [["a", "b", "1"], ["c", "d"]]


async def test_who_asks_before_the_first_connection_waits_for_it(rig):
    assert rig.ask("1")
    await rig.clock.settle()
    assert rig.answers == [b"ok 1"]
    assert rig.connections == 1


async def test_an_outage_is_two_lines_and_pauses_get_longer(rig):
    await rig.clock.settle()
    with capture_logs() as logs:
        await rig.clock.advance(60)
        await rig.fail(ConnectionResetError("gone"))
        assert rig.answers == [Lost("gone", perhaps_done=True)]
        assert not rig.ask("2")
        tries = rig.redis.connections
        pauses = []
        while len(pauses) < 8:
            pauses.append(rig.line.retry_s)
            await rig.clock.advance(rig.line.retry_s)
            assert rig.redis.connections == tries + len(pauses)
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
        rig.redis.refuses = None
        await rig.clock.advance(LONGEST_PAUSE_S)
        assert rig.line.state is State.CONNECTED
    assert [line["event"] for line in logs] == [
        "the store of limits is away",
        "the store of limits is back",
    ]
    assert rig.connections == 2


async def test_a_connection_that_breaks_at_once_is_no_reason_to_try_sooner(rig):
    await rig.clock.settle()
    await rig.clock.advance(60)
    pauses = []
    for _ in range(4):
        await rig.fail(OSError("gone"))
        pauses.append(rig.line.retry_s)
        rig.redis.refuses = None
        await rig.clock.advance(rig.line.retry_s)
        assert rig.line.state is State.CONNECTED
    assert pauses == [0.1, 0.2, 0.4, 0.8]


async def test_what_lasts_is_sent_again_in_its_order_and_the_rest_is_not(rig):
    await rig.clock.settle()
    rig.redis.held.clear()
    rig.post("a")
    rig.post("renewal", lasting=False)
    rig.post("b")
    await rig.clock.settle()
    rig.post("c")  # while the others are out
    rig.redis.refuses = OSError("gone")
    rig.redis.held.set()
    await rig.clock.settle()
    rig.post("d")
    assert rig.line.posted == 4
    rig.redis.refuses = None
    await rig.clock.advance(5)
    assert rig.redis.batches == [["a", "b", "c", "d"]]
    await rig.line.flush()


async def test_scripts_that_are_gone_are_loaded_again_and_nobody_notices(rig):
    await rig.clock.settle()
    rig.redis.forgotten = True
    rig.ask("1")
    await rig.clock.settle()
    assert rig.answers == [b"ok 1"]
    assert rig.redis.connections == 1


async def test_an_answer_that_it_cannot_serve_is_away_and_was_certainly_not_done(rig):
    await rig.clock.settle()
    rig.redis.answers = {"2": OutOfMemoryError("full"), "a": OutOfMemoryError("full")}
    rig.post("a")
    rig.ask("1")
    rig.ask("2")
    await rig.clock.settle()
    assert rig.answers == [b"ok 1", Lost("OOM: full", perhaps_done=False)]
    assert (rig.line.state, rig.line.reason, rig.line.posted) == (State.AWAY, "OOM: full", 1)


async def test_an_answer_about_one_call_concerns_that_call(rig):
    await rig.clock.settle()
    rig.redis.answers = {"1": ValueError("WRONGTYPE"), "a": ValueError("WRONGTYPE")}
    with capture_logs() as logs:
        for word in "112":
            rig.ask(word)
        rig.post("a")
        await rig.clock.settle()
    assert rig.answers == [Lost("WRONGTYPE", perhaps_done=False)] * 2 + [b"ok 2"]
    assert rig.line.state is State.CONNECTED
    assert rig.line.posted == 0  # it would be refused for ever
    assert [line["log_level"] for line in logs] == ["error"]


async def test_a_defect_is_an_outage_and_not_the_end(rig):
    await rig.clock.settle()
    with capture_logs() as logs:
        await rig.fail(ZeroDivisionError("a defect"))
        rig.redis.refuses = None
        await rig.clock.advance(1)
    assert rig.line.state is State.CONNECTED
    assert next(line["event"] for line in logs) == "the line to the store of limits broke"


async def test_the_end_leaves_nobody_waiting(monkeypatch):
    rig = Rig(monkeypatch)
    runner = asyncio.create_task(rig.line.run())
    await rig.clock.settle()
    rig.ask("1")
    runner.cancel()
    await asyncio.wait([runner])
    assert [type(answer) for answer in rig.answers] == [Lost]
    assert not rig.ask("2")
    await rig.line.flush()  # returns


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://me:secret@h:7/3?ssl_cert_reqs=none", "rediss://h:7/3"),
        ("redis://:sec%40ret@[::1]:7", "redis://[::1]:7/0"),
    ],
)
def test_an_address_without_its_secrets(url, shown):
    assert address_of(url) == shown
