import asyncio

import pytest

from supervisor.events import Endpoint
from supervisor.proc import watch
from supervisor.proc.probe import Health
from supervisor.proc.state import Event
from tests.support.proc import FakeRun, Stage

pytestmark = pytest.mark.anyio


class Watching:
    """One watcher on fakes, and how often it called ``alive``."""

    def __init__(self):
        self.stage = Stage()
        self.clock, self.prober = self.stage.clock, self.stage.prober
        self.run = FakeRun(1, Endpoint("127.0.0.1", 9000, "key"), self.clock.now(), lambda: None)
        self.tools = self.stage.instance._tools
        self.doubt = watch.Doubt()
        self.poke = self.doubt.raised
        self.alive = 0

    def begin(self, work):
        self.task = asyncio.create_task(work)
        return self

    def ready(self):
        return self.begin(watch.while_ready(self.run, self.tools, self.doubt, self._count))

    def _count(self):
        self.alive += 1

    async def after(self, seconds):
        await self.clock.advance(seconds)
        return self.task.result() if self.task.done() else None

    async def end(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def it():
    watching = Watching()
    yield watching
    await watching.end()


# ---- loading


async def test_loaded_when_health_says_so(it):
    it.prober.next = [Health.REFUSED, Health.LOADING, Health.SILENT]
    it.begin(watch.until_loaded(it.run, it.tools, 60))
    assert await it.after(0.02) == watch.Report(Event.HEALTHY)


async def test_polls_come_fast_first_and_four_a_second_later(it):
    it.prober.state = Health.LOADING
    it.begin(watch.until_loaded(it.run, it.tools, 3600))
    await it.after(0.1)
    assert it.prober.asked >= 7
    await it.after(60)
    before = it.prober.asked
    await it.after(10)
    assert it.prober.asked - before == 40


@pytest.mark.fault(15)
async def test_a_load_without_any_sign_of_progress_is_stalled(it):
    it.prober.state = Health.LOADING
    it.begin(watch.until_loaded(it.run, it.tools, 60))
    assert await it.after(59) is None
    report = await it.after(2)
    assert report.event is Event.STALLED
    assert "60 s" in report.evidence


@pytest.mark.fault(15)
async def test_a_slow_load_that_progresses_is_left_alone(it):
    it.prober.state = Health.LOADING
    it.begin(watch.until_loaded(it.run, it.tools, 60))
    for minute in range(40):
        it.run.progressed = minute
        assert await it.after(59) is None
    assert (await it.after(61)).event is Event.STALLED


# ---- warming up


async def test_warm_at_the_first_token(it):
    it.begin(watch.until_warm(it.run, it.tools))
    assert await it.after(0) == watch.Report(Event.WARM)


async def test_three_failed_warm_ups_say_what_was_wrong(it):
    it.prober.wrong = "a broken GPU"
    it.begin(watch.until_warm(it.run, it.tools))
    assert await it.after(0.9) is None
    assert await it.after(0.2) == watch.Report(Event.STALLED, "loaded, but a broken GPU")


async def test_a_warm_up_that_succeeds_at_last_is_a_warm_up(it):
    it.prober.wrong = "busy"
    it.begin(watch.until_warm(it.run, it.tools))
    await it.after(0.6)
    it.prober.wrong = None
    assert await it.after(0.5) == watch.Report(Event.WARM)


# ---- serving


async def test_ready_is_asked_every_five_seconds_and_nobody_is_told(it):
    it.ready()
    assert await it.after(20.1) is None
    assert (it.prober.asked, it.alive) == (4, 0)


async def test_two_refusals_a_tenth_of_a_second_apart_are_a_closed_listener(it):
    it.ready()
    it.prober.state = Health.REFUSED
    assert await it.after(5.05) is None
    report = await it.after(0.1)
    assert report.event is Event.UNREACHABLE
    assert "refuses" in report.evidence


@pytest.mark.parametrize("health", [Health.LOADING, Health.SILENT])
async def test_slow_answers_are_no_refusal(it, health):
    it.ready()
    it.prober.state = health
    assert await it.after(60) is None


async def test_one_refusal_is_forgotten(it):
    it.ready()
    it.prober.next = [Health.REFUSED, Health.READY, Health.REFUSED, Health.READY]
    assert await it.after(20) is None
    assert it.prober.asked >= 4


async def test_a_doubt_is_answered_at_once(it):
    it.ready()
    it.poke.set()
    await it.after(0)
    assert (it.prober.asked, it.alive) == (1, 1)
    await it.after(4.9)
    assert it.alive == 1


@pytest.mark.parametrize("first", [Health.REFUSED, Health.SILENT, Health.LOADING])
async def test_a_doubt_is_answered_even_if_the_first_look_failed(it, first):
    """Whoever doubted holds its requests back until it hears that all is well."""
    it.ready()
    it.prober.next = [first]
    it.poke.set()
    await it.after(5.1)
    assert it.alive == 1


async def test_a_burst_of_doubts_does_not_bring_the_second_look_forward(it):
    it.ready()
    it.prober.next = [Health.REFUSED]
    it.prober.state = Health.REFUSED
    for _ in range(5):
        it.poke.set()
        assert await it.after(0.01) is None
    assert (await it.after(0.1)).event is Event.UNREACHABLE


async def test_one_in_doubt_that_says_and_does_nothing_is_deaf_until_it_answers(it):
    it.ready()
    it.prober.state = Health.SILENT
    it.poke.set()
    assert await it.after(2) is None
    assert it.doubt.deaf
    it.prober.state = Health.READY
    await it.after(0.6)
    assert (it.doubt.deaf, it.alive) == (False, 1)


async def test_one_that_works_is_not_deaf(it):
    it.ready()
    it.prober.state = Health.SILENT
    it.poke.set()
    for step in range(20):
        it.run.progressed = step
        await it.after(0.5)
        assert not it.doubt.deaf
