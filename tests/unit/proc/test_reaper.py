import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from supervisor.clock import SystemClock
from supervisor.proc import reaper, vitals
from supervisor.proc.causes import ExitStatus
from supervisor.proc.spawn import Child
from tests.support.clock import FakeClock
from tests.support.proc import eventually, lives

pytestmark = pytest.mark.anyio


def child_of(script):
    return Child(subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True))


async def ended(child):
    event = asyncio.Event()
    reaper.Watch(child, event.set)
    await asyncio.wait_for(event.wait(), 5)


@pytest.mark.parametrize("way", ["pidfd", "refused", "thread"])
async def test_an_exit_is_noticed_and_not_reaped(monkeypatch, way):
    def refuse(_):
        raise OSError

    if way == "refused":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    elif way == "thread":
        monkeypatch.delattr(os, "pidfd_open")
    child = child_of("exit 7")
    await ended(child)
    assert child.process.returncode is None
    assert reaper.reap(child) == ExitStatus(code=7)
    assert child.process.returncode == 7


async def test_a_closed_watch_says_nothing_and_may_be_closed_again():
    calls, child = [], child_of("exec sleep 60")
    watch = reaper.Watch(child, lambda: calls.append(1))
    watch.close()
    watch.close()
    child.process.kill()
    reaper.reap(child)
    await asyncio.sleep(0.01)
    assert calls == []


async def test_the_leader_is_signalled_only_until_it_is_reaped():
    child = child_of("exec sleep 60")
    assert reaper.signal_leader(child, signal.SIGKILL)
    await ended(child)
    assert reaper.signal_leader(child, signal.SIGTERM)  # a zombie still has its number
    reaper.reap(child)
    assert not reaper.signal_leader(child, signal.SIGKILL)


async def test_reaping_kills_the_rest_first():
    child = child_of("sleep 60 & echo; exit 0")
    await ended(child)
    reaper.reap(child)
    assert await reaper.group_gone(child, SystemClock())
    assert not vitals.any_alive(child.pid)


async def test_a_group_that_stays_is_not_waited_for_longer_than_said(monkeypatch):
    monkeypatch.setattr(reaper, "signal_group", lambda *_: True)
    monkeypatch.setattr(vitals, "any_alive", lambda _: True)
    clock, child = FakeClock(), child_of("exit 0")
    reaper.reap(child)
    waiting = asyncio.create_task(reaper.group_gone(child, clock, within_s=1.0))
    await clock.advance(0.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting is False


@pytest.mark.fault(11)
async def test_members_that_only_wait_for_a_lazy_init_count_as_gone(monkeypatch):
    monkeypatch.setattr(reaper, "signal_group", lambda *_: True)
    monkeypatch.setattr(vitals, "any_alive", lambda _: False)
    child = child_of("exit 0")
    reaper.reap(child)
    assert await reaper.group_gone(child, FakeClock())


async def test_a_member_we_may_not_signal_counts_as_there(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    child = child_of("exit 0")
    assert reaper.signal_group(child, 0)
    monkeypatch.undo()
    reaper.reap(child)


async def test_orphans_that_are_ours_to_reap_do_not_keep_a_group_alive(tmp_path):
    """As in a container where llmsup is process 1: played by a subreaper (prctl 36)."""
    script = tmp_path / "first.py"
    script.write_text(
        "import asyncio, ctypes, subprocess, time\n"
        "from supervisor.clock import SystemClock\n"
        "from supervisor.proc import reaper\n"
        "from supervisor.proc.spawn import Child\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "child = Child(subprocess.Popen(['/bin/sh', '-c', 'sleep 60 & sleep 61 & exit 0'],"
        " start_new_session=True))\n"
        "time.sleep(0.1)\n"
        "reaper.reap(child)\n"
        "print(asyncio.run(reaper.group_gone(child, SystemClock(), within_s=2)))\n",
        encoding="utf-8",
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, script], capture_output=True, check=False, text=True, timeout=10
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.fault(11)
async def test_a_forked_parent_that_exits_counts_as_the_death(tmp_path):
    """FAULTS 11: a child that puts itself in the background is gone, with its background part."""
    pid_file = tmp_path / "pid"
    child = child_of(f"sleep 60 & echo $! > {pid_file}; exit 0")
    began = time.monotonic()
    await ended(child)
    assert reaper.reap(child) == ExitStatus(code=0)
    assert await reaper.group_gone(child, SystemClock())
    await eventually(lambda: not lives(int(pid_file.read_text())))
    assert time.monotonic() - began < 2
