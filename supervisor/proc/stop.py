"""Ending a child, rung by rung (FAULTS 16; timings from LLAMA_SERVER (e)).

SIGTERM makes llama-server stop generating and then wait for its clients, for an hour if they stay:
so the upstream connections are closed first (by the caller). A second SIGTERM makes it exit at once.
"""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.clock import Clock
from supervisor.proc import reaper
from supervisor.proc.run import Run, within


@dataclass(frozen=True, slots=True)
class Rung:
    """Signals for the leader (or the whole group), then so long to see it end."""

    signals: tuple[signal.Signals, ...]
    wait_s: float
    group: bool = False


# SIGCONT after SIGTERM: a stopped process gets its SIGTERM only when it goes on (as systemd does).
TERM = (signal.SIGTERM, signal.SIGCONT)
LADDER: tuple[Rung, ...] = (
    Rung(TERM, 5.0),
    Rung(TERM, 2.0),
    Rung((signal.SIGKILL,), 10.0, group=True),
)
# While loading, signals end it by default action; when it hangs, asking is a waste of time.
FAST_LADDER: tuple[Rung, ...] = (Rung(TERM, 2.0), Rung((signal.SIGKILL,), 10.0, group=True))

# Hung, confirmed: it would not hear SIGTERM, and has nothing left to lose.
NOW_LADDER: tuple[Rung, ...] = (Rung((signal.SIGKILL,), 10.0, group=True),)


async def descend(run: Run, rungs: Sequence[Rung], clock: Clock, hurry: asyncio.Event) -> bool:
    """Step down until the child has ended; ``hurry`` skips the wait of one rung.

    Returns False when the last rung did not end it: it sits in a driver, unkillable.
    """
    for rung in rungs:
        for number in rung.signals:
            if rung.group:
                reaper.signal_group(run.child, number)
            else:
                reaper.signal_leader(run.child, number)
        if await _either(run.exited, hurry, rung.wait_s, clock):
            return True
        hurry.clear()  # after the wait, not before: a wish sent before the first step counts too
    return run.exited.is_set()


async def _either(exited: asyncio.Event, hurry: asyncio.Event, seconds: float, clock: Clock) -> bool:
    hurried = asyncio.ensure_future(hurry.wait())
    ended = asyncio.ensure_future(within(exited, seconds, clock))
    try:
        await asyncio.wait({hurried, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hurried.cancel()
        ended.cancel()
    return exited.is_set()
