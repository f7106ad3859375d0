"""The ladder: on a fake run with a clock that jumps, and on a real process that ignores SIGTERM."""

import asyncio
import signal

import pytest

from supervisor.clock import SystemClock
from supervisor.events import Endpoint
from supervisor.proc import reaper
from supervisor.proc.run import Launch, Launcher
from supervisor.proc.stop import FAST_LADDER, LADDER, TERM, Rung, descend
from tests.support.clock import FakeClock
from tests.support.proc import FakeRun, eventually

pytestmark = pytest.mark.anyio
AT = Endpoint("127.0.0.1", 9000, "key")
KILL = signal.SIGKILL


class Descent:
    def __init__(self, rungs, ignores=()):
        self.clock, self.hurry = FakeClock(), asyncio.Event()
        self.run = FakeRun(1, AT, 0.0, lambda: None)
        self.run.ignores = set(ignores)
        self.began = self.clock.now()
        self.task = asyncio.create_task(descend(self.run, rungs, self.clock, self.hurry))

    async def after(self, seconds):
        """The signals sent within so many seconds of the start."""
        await self.clock.advance(self.began + seconds - self.clock.now())
        return tuple(self.run.signals)


@pytest.fixture(autouse=True)
def fakes_are_signalled(monkeypatch):
    leader, group = reaper.signal_leader, reaper.signal_group

    def send(real):
        return lambda child, number: (
            child.deliver(number) if hasattr(child, "deliver") else real(child, number)
        )

    monkeypatch.setattr(reaper, "signal_leader", send(leader))
    monkeypatch.setattr(reaper, "signal_group", send(group))


@pytest.mark.fault(16)
async def test_one_sigterm_with_sigcont_is_enough_for_the_willing():
    descent = Descent(LADDER)
    assert await descent.after(0) == TERM
    assert descent.task.result() is True


@pytest.mark.fault(16)
async def test_term_5_s_term_2_s_kill():
    descent = Descent(LADDER, ignores={signal.SIGTERM})
    assert await descent.after(4.9) == TERM
    assert await descent.after(6.9) == TERM * 2
    assert await descent.after(7.1) == (*TERM, *TERM, KILL)
    assert descent.task.result() is True


async def test_while_loading_two_seconds_are_enough():
    descent = Descent(FAST_LADDER, ignores={signal.SIGTERM})
    assert await descent.after(1.9) == TERM
    assert await descent.after(2.1) == (*TERM, KILL)


@pytest.mark.fault(16)
async def test_who_survives_sigkill_is_unkillable_after_10_s():
    descent = Descent(FAST_LADDER, ignores={signal.SIGTERM, KILL})
    await descent.after(11.9)
    assert not descent.task.done()
    await descent.after(12.1)
    assert descent.task.result() is False


async def test_an_exit_between_two_rungs_ends_the_descent():
    descent = Descent(LADDER, ignores={signal.SIGTERM})
    await descent.after(3)
    descent.run.die(code=0)
    assert await descent.after(3) == TERM
    assert descent.task.result() is True


async def test_hurry_skips_one_rung_each_time():
    descent = Descent(LADDER, ignores={signal.SIGTERM})
    for expected in (TERM * 2, (*TERM, *TERM, KILL)):
        await descent.clock.settle()
        descent.hurry.set()
        assert await descent.after(0) == expected


async def test_hurry_before_the_first_step_is_not_lost():
    descent = Descent(LADDER, ignores={signal.SIGTERM})
    descent.hurry.set()
    assert await descent.after(0) == TERM * 2


@pytest.mark.parametrize(
    ("trap", "status"),
    [
        ("", signal.SIGTERM),
        ("trap '' TERM; ", signal.SIGKILL),
        ("kill -STOP $$; ", signal.SIGTERM),  # stopped: it gets its SIGTERM only because of the SIGCONT
    ],
)
async def test_on_a_real_process(trap, status):
    clock = SystemClock()
    launch = Launch(["/bin/sh", "-c", f"echo on; {trap}echo; while :; do sleep 60; done"], {}, AT, None)
    run = Launcher(clock).start(launch, 1, lambda: None)
    await eventually(lambda: len(run.output.tail()) == (1 if "STOP" in trap else 2))
    await asyncio.sleep(0.02)
    rungs = (Rung(TERM, 0.1), Rung(TERM, 0.05), Rung((KILL,), 5.0, group=True))
    assert await asyncio.wait_for(descend(run, rungs, clock, asyncio.Event()), 5)
    assert (await run.bury(clock))[0].signal == status
