"""What a child started and did not take with it: processes that left its group (setsid), which a signal to the group
does not reach, and which may hold gigabytes, a port or the GPU (FAULTS 10).

The daemon is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): when such a process loses its parent, the kernel makes it
ours instead of init's. So after a burial there is no need to search the machine: whatever of that generation is left is
among our own children, and carries its marker. Two things say whose it is, the kernel and the marker, and its
number cannot pass to a stranger, because nobody but us can reap it.

One that wiped its environment as well is not known for ours here; it still holds the model's lock (`lifelock`) unless it
closed that too.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path

import structlog

from supervisor.clock import Clock
from supervisor.proc.command import MARKER

log: structlog.stdlib.BoundLogger = structlog.get_logger("orphans")

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PROC = Path("/proc")
GRACE_S = 2.0  # SIGKILL is at once, unless one sits in a driver; then the next start need not wait for it
EXEC_S = 0.05  # in the middle of an exec a process shows no environment, and so no marker
POLL_S, POLL_GROWTH, POLL_MAX_S = 0.001, 1.5, 0.05
REAP_EVERY_S = 10.0


def adopt() -> bool:
    """From now on orphans among our descendants become our children. False: not on this system."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        done: int = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError) as exc:
        log.info("processes that leave their group are not watched", why=str(exc))
        return False
    return done == 0


async def end(marker: str, clock: Clock) -> list[int]:
    """After the leader and its group: end and reap what carries the marker, and what that leaves to us in turn. The pids
    of those that cannot be ended.

    Costs 2 us where we have no child at all, which is the usual case with one model.
    """
    begun, pause_s, left = clock.now(), POLL_S, set[int]()
    while not childless():
        found = {pid: _is_of(pid, marker) for pid in children()}
        fresh = {pid for pid, ours in found.items() if ours} - left
        for pid in fresh:
            log.warning("ending a process that left its group", pid=pid, marker=marker)
        left = {pid for pid in left | fresh if not _ended(pid)}
        took_s = clock.now() - begun
        unclear = None in found.values() and took_s < EXEC_S
        if not (left or fresh or unclear):
            return []
        if took_s >= GRACE_S:
            return sorted(left)
        await clock.sleep(pause_s)
        pause_s = min(pause_s * POLL_GROWTH, POLL_MAX_S)
    return []


def childless() -> bool:
    """Whether we have no child, not even one to be reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def children() -> list[int]:
    """Our children. The kernel lists them if it was built so (CONFIG_PROC_CHILDREN, as distributions do); else all
    processes are looked at, 10 us each.
    """
    listed = _listed()
    return listed if listed is not None else _searched()


def _listed() -> list[int] | None:
    tasks = PROC / "self/task"
    try:
        return [
            int(pid) for task in os.listdir(tasks) for pid in (tasks / task / "children").read_text().split()
        ]
    except (OSError, ValueError):  # no such file, or a thread that has just ended
        return None


def _searched() -> list[int]:
    try:
        names = os.listdir(PROC)
    except OSError:
        return []
    return [int(name) for name in names if name.isdigit() and _facts(int(name))[1:2] == [str(os.getpid())]]


def _facts(pid: int) -> list[str]:
    """State, parent, group, session, ... of ``stat``; empty: there is none."""
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            return file.read().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _is_of(pid: int, marker: str) -> bool | None:
    """None: it has no environment to show; a zombie has none either, but nothing to be ended."""
    try:
        environ = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    if not environ:
        return False if _facts(pid)[:1] == ["Z"] else None
    return f"{MARKER}={marker}".encode() in environ.split(b"\0")


def _ended(pid: int) -> bool:
    """Kill and reap it; False: not yet gone. It is our child, so the number is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: it changed its user
        os.kill(pid, signal.SIGKILL)
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def reap(leaders: Collection[int]) -> int:
    """Collect adopted ones that ended by themselves; says how many. ``leaders``: children that others reap.

    What has our own session was started by a thread of ours that waits for it.
    """
    if childless() or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return 0
    session, reaped = str(os.getsid(0)), 0
    for pid in children():
        facts = _facts(pid)
        if pid not in leaders and facts[:1] == ["Z"] and facts[3] != session:
            with contextlib.suppress(ChildProcessError):
                reaped += os.waitpid(pid, os.WNOHANG)[0] != 0
    return reaped
