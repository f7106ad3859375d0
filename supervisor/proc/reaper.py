"""Seeing a child end, ending what it left behind, and only then letting go of its pid.

asyncio's own child watchers reap at once and its ``Process.wait()`` waits for the end of the pipe,
which a grandchild may hold open (3.00 s against 0.00 s measured). Here the order is:

1. the exit is *noticed* (pidfd on Linux, kqueue on macOS, a waiting thread elsewhere) without reaping;
2. the group gets SIGKILL while the unreaped leader still pins its number;
3. the leader is reaped;
4. ``killpg(group, 0)`` and `/proc` say when the last member has ended; the number cannot be reused before.
"""

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from supervisor.clock import Clock
from supervisor.proc import vitals
from supervisor.proc.causes import ExitStatus
from supervisor.proc.spawn import Child

GROUP_GRACE_S = 10.0  # SIGKILL is at once, unless a member sits in a driver
GROUP_POLL_S = 0.005
GROUP_POLL_GROWTH = 1.5
GROUP_POLL_MAX_S = 0.1  # each poll looks at all processes of the machine


class Watch:
    """Calls ``on_exit`` in the loop when the child has ended; the child stays unreaped."""

    def __init__(self, child: Child, on_exit: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._fd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # no such system call: old kernel, sandbox
                self._fd = os.pidfd_open(child.pid)
        elif sys.platform == "darwin":
            self._kqueue = select.kqueue()
            event = select.kevent(child.pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            self._kqueue.control([event], 0)
            self._fd = self._kqueue.fileno()
        if self._fd is None:
            threading.Thread(target=self._wait, args=(child.pid,), name="waitid", daemon=True).start()
        else:
            self._loop.add_reader(self._fd, self._ready)

    def _ready(self) -> None:
        self.close()
        self._on_exit()

    def _wait(self, pid: int) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._on_exit)

    def close(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            if sys.platform == "darwin":
                self._kqueue.close()
            else:
                os.close(self._fd)
            self._fd = None


def signal_leader(child: Child, number: signal.Signals) -> bool:
    """Send to the child alone. Its pid is pinned until we reap it. False: it has been reaped."""
    if child.process.returncode is not None:
        return False
    os.kill(child.pid, number)
    return True


def signal_group(child: Child, number: int) -> bool:
    """Send to all of the group; False: nobody is left in it."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so for a group of zombies
        return sys.platform != "darwin"
    return True


def reap(child: Child) -> ExitStatus:
    """Kill the rest of the group, then collect the leader, which must have ended already."""
    signal_group(child, signal.SIGKILL)
    _, raw = os.waitpid(child.pid, 0)
    code = os.waitstatus_to_exitcode(raw)
    child.mark_reaped(code)
    return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)


def _reap_orphans(child: Child) -> None:
    """We inherit the members whose parent has ended (`orphans.adopt`), and nobody else reaps them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-child.pid, os.WNOHANG)[0]:
            pass


async def group_gone(child: Child, clock: Clock, *, within_s: float = GROUP_GRACE_S) -> bool:
    """Wait until no member of a reaped leader's group runs any more; False when one stays.

    Members that are only waiting to be reaped count as gone: init may take seconds, or never do it.
    """
    deadline, pause_s = clock.now() + within_s, GROUP_POLL_S
    while True:
        _reap_orphans(child)
        if not (signal_group(child, 0) and vitals.any_alive(child.pid)):
            _reap_orphans(child)  # one may have ended between the two looks
            return True
        if clock.now() >= deadline:
            return False
        signal_group(child, signal.SIGKILL)
        await clock.sleep(pause_s)
        pause_s = min(pause_s * GROUP_POLL_GROWTH, GROUP_POLL_MAX_S)
