"""Instances that hang, on fakes: suspected, asked, killed, rationed."""

import dataclasses
import signal

import pytest

from supervisor.proc.hang import Counters, Standing
from supervisor.proc.state import Event
from supervisor.proc.vigil import may_sleep
from tests.support.proc import Stage, spec, stage

pytestmark = pytest.mark.anyio
QUICK = {"silence_s": 10.0}
FOUND_S = 40


@pytest.fixture
async def on(monkeypatch):
    async with stage(monkeypatch, **QUICK) as it:
        yield it


def stop(on: Stage) -> None:
    on.run.vitals = dataclasses.replace(on.run.vitals, state="T")
    on.prober.hangs = True


def heal(on: Stage) -> None:
    on.prober.hangs = False
    on.traffic.standing_now = Standing(0, 0.0)


async def test_a_stopped_child_is_suspect_then_killed_at_once_and_replaced(on):
    await on.start()
    stop(on)
    await on.clock.advance(3)
    assert "stopped (state T)" in on.view.suspect
    assert "suspected to hang" in on.view.why()
    assert on.view.state == "READY"
    on.launcher.on_start = lambda _: heal(on)
    await on.clock.advance(15)
    first = on.launcher.runs[0]
    assert first.signals == [signal.SIGKILL]
    assert on.traffic.aborted[0] == 1
    assert (on.view.state, on.view.generation, on.view.suspect) == ("READY", 2, None)
    assert on.view.last_death.cause == "hung"
    assert "2 one-token requests" in on.view.last_death.detail
    assert on.view.last_death.then == "started it again at once"
    assert on.prober.living_canaries == 0


async def test_requests_that_stand_still_are_reason_enough(on):
    await on.start()
    on.prober.hangs = True
    for second in range(FOUND_S):
        on.traffic.standing_now = Standing(2, float(second))
        on.launcher.on_start = lambda _: heal(on)
        await on.clock.advance(1)
        if on.view.generation == 2:
            break
    assert "2 requests inside" in on.view.last_death.detail
    assert on.prober.canaries == 2


async def test_one_that_works_on_is_left_alone_whatever_the_canary_does(on):
    await on.start()
    on.prober.hangs = True
    for second in range(300):
        on.traffic.standing_now = Standing(2, float(second))
        on.run.vitals = dataclasses.replace(on.run.vitals, cpu_s=second * 0.5)
        await on.clock.advance(1)
    assert (on.view.generation, on.view.suspect) == (1, None)
    assert on.prober.canaries == 0
    assert on.prober.counts_asked <= 3  # for those who are told of a spin


@pytest.mark.fault(14)
@pytest.mark.parametrize("sign", ["cpu", "counters", "bytes"])
async def test_twenty_minutes_of_slow_work_of_each_kind_kill_nobody(on, sign):
    """An hour in all, every canary behind it; each sign comes every fourth second, and the limit is ten."""
    await on.start()
    on.prober.hangs = True
    worked = 0
    for second in range(1200):
        worked += second % 4 == 0
        on.traffic.standing_now = Standing(3, second % 4 if sign == "bytes" else float(second))
        if sign == "cpu":
            on.run.vitals = dataclasses.replace(on.run.vitals, cpu_s=worked * 0.5)
        if sign == "counters":
            on.prober.counts = Counters(worked, 0, 0)
        await on.clock.advance(1)
    assert (on.view.generation, on.view.state, on.deaths) == (1, "READY", [])


async def test_an_answered_canary_clears_and_counts_as_a_sign_of_life(on):
    await on.start()
    stop(on)
    await on.clock.advance(5)
    on.run.vitals = dataclasses.replace(on.run.vitals, state="S")
    heal(on)
    await on.clock.advance(2)
    assert (on.view.suspect, on.view.checks, on.view.generation) == (None, 1, 1)


async def test_a_run_that_ends_while_suspect_leaves_no_suspicion_and_no_canary(on):
    await on.start()
    stop(on)
    await on.clock.advance(4)
    heal(on)
    await on.die(signal=signal.SIGKILL)
    await on.clock.advance(0.1)
    assert (on.view.state, on.view.generation, on.view.suspect) == ("READY", 2, None)
    assert on.prober.living_canaries == 0


async def test_a_hung_one_that_drains_is_ended_too(on):
    await on.start()
    on.traffic.busy = True
    await on.tell(Event.STOP)
    stop(on)
    await on.clock.advance(20)
    assert on.view.state == "STOPPED"
    assert on.launcher.runs[0].signals == [signal.SIGKILL]


@pytest.mark.fault(17)
async def test_the_fourth_within_a_quarter_of_an_hour_is_left_alone_until_it_may_be_killed_again(on):
    await on.start()
    on.launcher.on_start = lambda run: setattr(run, "vitals", dataclasses.replace(run.vitals, state="T"))
    stop(on)
    for _ in range(300):
        await on.clock.advance(1)
        if on.view.suspect is not None and "3 kills" in on.view.suspect:
            break
    assert (on.view.generation, on.view.state) == (4, "READY")
    await on.clock.advance(600)
    assert (on.view.generation, "3 kills" in on.view.suspect) == (4, True)
    await on.clock.advance(400)
    assert on.view.generation > 4


async def test_the_idle_are_asked_now_and_then_but_not_those_that_may_sleep(on):
    await on.start()
    await on.clock.advance(1300)
    assert (on.prober.canaries, on.view.suspect, on.view.generation) == (2, None, 1)
    assert not may_sleep(spec())
    assert may_sleep(spec(args=("--sleep-idle-seconds", "60")))
    assert may_sleep(spec(args=("--sleep-idle-seconds=60",)))
    assert may_sleep(spec(env={"LLAMA_ARG_SLEEP_IDLE_SECONDS": "60"}))
