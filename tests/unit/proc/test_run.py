"""Runs on real small processes: noticed at once, buried with all they left behind, nothing leaks."""

import asyncio
import gc
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.errors import BuildError
from supervisor.events import Endpoint
from supervisor.proc import reaper, vitals
from supervisor.proc.causes import ExitStatus
from supervisor.proc.run import Launch, Launcher, log_path, new_key, within
from supervisor.proc.spawn import SpawnFailed
from tests.support.clock import FakeClock
from tests.support.proc import descriptors, eventually, lives

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()
AT = Endpoint("127.0.0.1", 9000, "key")


def begin(script, on_exit=lambda: None):
    argv = ["/bin/sh", "-c", script]
    return Launcher(CLOCK).start(Launch(argv, {"PATH": os.environ["PATH"]}, AT, None), 1, on_exit)


async def buried(run):
    await asyncio.wait_for(run.exited.wait(), 5)
    return await run.bury(CLOCK)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", ExitStatus(code=0)),
        ("exit 3", ExitStatus(code=3)),
        ("kill -KILL $$", ExitStatus(signal=signal.SIGKILL)),
        ("kill -SEGV $$", ExitStatus(signal=signal.SIGSEGV)),
        ("kill -ABRT $$", ExitStatus(signal=signal.SIGABRT)),
    ],
)
async def test_status_and_last_words(script, status):
    run = begin(f"echo early; echo late >&2; {script}")
    assert await buried(run) == (status, ["early", "late"])
    assert run.child.process.returncode == (status.code if status.signal is None else -status.signal)


@pytest.mark.fault(1)
async def test_an_exit_is_noticed_within_50_ms():
    took = []
    for _ in range(3):  # the best of three: this machine may be busy
        ended_at = []
        run = begin("exec sleep 60", lambda at=ended_at: at.append(time.monotonic()))
        began = time.monotonic()
        os.kill(run.child.pid, signal.SIGKILL)
        await buried(run)
        took.append(ended_at[0] - began)
    assert min(took) < 0.05


async def test_on_exit_is_called_once_and_only_when_it_has_ended():
    calls = []
    run = begin("read x < /dev/null; exec sleep 0.05", lambda: calls.append(1))
    assert not calls
    await buried(run)
    await asyncio.sleep(0.02)
    assert calls == [1]


@pytest.mark.fault(10)
@pytest.mark.parametrize("trap", ["", "trap '' TERM HUP INT; "])
async def test_grandchildren_are_gone_before_bury_returns(trap):
    run = begin(f"({trap}sleep 60 & wait) & ({trap}exec sleep 60) & echo $!; exit 1")
    await asyncio.wait_for(run.exited.wait(), 5)
    members = int(subprocess.check_output(["pgrep", "-c", "-g", str(run.child.pid)]))
    assert members >= 3
    began = time.monotonic()
    status, tail = await run.bury(CLOCK)
    assert status.code == 1
    assert not lives(int(tail[0]))
    assert not vitals.any_alive(run.child.pid)
    assert time.monotonic() - began < 1


@pytest.mark.fault(10)
async def test_a_grandchild_that_left_the_group_delays_nothing_for_long():
    run = begin("setsid sleep 3 & echo $!; sleep 0.1; exit 0")
    await asyncio.wait_for(run.exited.wait(), 5)
    began = time.monotonic()
    _, tail = await run.bury(CLOCK)  # it holds the pipe open
    assert time.monotonic() - began < 1
    subprocess.run(["kill", tail[0]], check=False)


async def test_bury_can_be_repeated():
    run = begin("exit 4")
    assert await buried(run) == await run.bury(CLOCK)


async def test_a_hundred_runs_leave_nothing_behind():
    await buried(begin("exit 0"))
    gc.collect()
    files, threads = descriptors(), threading.active_count()
    for _ in range(100):
        await buried(begin("exit 0"))
    await eventually(lambda: (descriptors(), threading.active_count()) == (files, threads))


async def test_a_missing_binary_leaves_no_pipe():
    before = descriptors()
    with pytest.raises(BuildError):
        Launcher(CLOCK).start(Launch(["/nowhere"], {}, AT, None), 1, lambda: None)
    assert descriptors() == before


@pytest.mark.fault(32)
async def test_a_child_that_cannot_be_looked_after_is_ended(monkeypatch):
    children = []
    real = threading.Thread.start

    def start(thread):
        if thread.name.startswith("drain-"):
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(reaper, "reap", lambda child: (children.append(child.pid), real_reap(child)))
    before = descriptors()
    with pytest.raises(SpawnFailed) as raised:
        begin("exec sleep 60")
    assert raised.value.transient
    assert not lives(children[0])
    assert descriptors() == before


real_reap = reaper.reap


async def test_progress_moves_with_the_processor_and_the_log():
    run = begin("while :; do echo x; done")
    before = run.progress()
    await eventually(lambda: run.output.bytes_read > 0 and run.progress() != before)
    os.kill(run.child.pid, signal.SIGKILL)
    await buried(run)
    assert run.progress() == (run.output.bytes_read,)  # nobody there any more: only the log is left


async def test_within_waits_no_longer_than_it_should():
    clock, event = FakeClock(), asyncio.Event()
    waiting = asyncio.create_task(within(event, 5, clock))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting is False
    waiting = asyncio.create_task(within(event, 5, clock))
    await clock.settle()
    event.set()
    await clock.settle()
    assert waiting.result() is True
    assert await within(event, 5, clock) is True


def test_names_of_logs_and_keys():
    assert log_path(Path("/var/log"), "org/model:q4") == Path("/var/log/llama-server.org%2Fmodel%3Aq4.log")
    assert new_key() != new_key()
