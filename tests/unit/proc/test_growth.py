"""Starting and stopping without end: nothing may be left of a generation that is over.

What is allowed in all is far less than one small object for each cycle, so the least leak shows.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import structlog

from supervisor.clock import SystemClock
from supervisor.events import Endpoint
from supervisor.proc.causes import ExitStatus
from supervisor.proc.run import Launch, Launcher
from supervisor.proc.state import Event
from tests.support.proc import descriptors, eventually, stage

pytestmark = pytest.mark.anyio
HOUR_S = 3600.0
WARM = 100  # until caches have their size
RUNS = 200


@dataclass(frozen=True, slots=True)
class Size:
    """What this process holds, garbage not counted. ``blocks``: of Python's allocator, each an object or a part of
    one; ``bytes``: of lists, dicts and their like, for one that grows is still one object.
    """

    descriptors: int
    threads: int
    tasks: int
    blocks: int
    bytes: int

    @classmethod
    def now(cls) -> "Size":
        gc.collect()
        tasks = len(asyncio.all_tasks())
        blocks, containers = sys.getallocatedblocks(), sum(map(sys.getsizeof, gc.get_objects()))
        return cls(descriptors(), threading.active_count(), tasks, blocks, containers)

    def __sub__(self, other: "Size") -> "Size":
        return Size(*(getattr(self, name) - getattr(other, name) for name in self.__slots__))

    def __le__(self, other: "Size") -> bool:
        return all(getattr(self, name) <= getattr(other, name) for name in self.__slots__)


# Two tasks of the latest cycle may still be ending; what is left of each cycle would be hundreds.
SPARE = Size(descriptors=0, threads=0, tasks=2, blocks=100, bytes=3_000)


async def growth(cycle: Callable[[], Awaitable[None]], cycles: int) -> Size:
    """How much more there is than after the warm-up."""
    for _ in range(WARM):
        await cycle()
    before = Size.now()
    for _ in range(cycles):
        await cycle()
    return Size.now() - before


@pytest.fixture
def quiet():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.fault(34)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cycles", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_an_instance_does_not_grow(monkeypatch, quiet, cycles):
    monkeypatch.setattr("tests.support.clock.SETTLE_ROUNDS", 15)  # half the time, and still enough
    async with stage(monkeypatch) as on:

        async def cycle():
            await on.tell(Event.START)
            await on.clock.advance(0.1)
            assert on.view.state == "READY"
            if on.view.generation % 3 == 0:
                await on.die(signal=signal.SIGKILL)
            await on.tell(Event.STOP)
            await on.clock.advance(HOUR_S)  # past the timers that were called off, which the fake clock keeps
            assert on.view.state == "STOPPED"
            for kept_by_the_fakes in (
                on.views,
                on.deaths,
                on.traffic.aborted,
                on.launcher.runs,
                on.launcher.launches,
            ):
                kept_by_the_fakes.clear()

        assert await growth(cycle, cycles) <= SPARE


@pytest.mark.fault(34)
async def test_a_run_of_a_real_process_leaves_nothing():
    clock = SystemClock()
    launcher = Launcher(clock)
    at = Endpoint("127.0.0.1", 9000, "key")
    launch = Launch(["/bin/sh", "-c", "echo last words"], {"PATH": os.environ["PATH"]}, at, None)

    async def cycle():
        threads = threading.active_count()
        run = launcher.start(launch, 1, lambda: None)
        await asyncio.wait_for(run.exited.wait(), 5)
        assert await run.bury(clock) == (ExitStatus(code=0), ["last words"])
        run.close()
        await eventually(lambda: threading.active_count() <= threads)

    assert await growth(cycle, RUNS) <= SPARE
