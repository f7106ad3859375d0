"""Waiting for a run to load and warm up, and looking after it while it serves.

Each of these returns once it has something to say. Loading has no time limit, only a stall limit:
slow is not broken (a 40-minute load over a network is normal), silence in log, I/O, memory and
processor time together is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.proc.probe import Health
from supervisor.proc.run import Run, within
from supervisor.proc.state import Event
from supervisor.proc.tools import Tools

FIRST_POLL_S = 0.004  # the demo model loads in 15-50 ms; a refused connect costs 0.3 ms
POLL_GROWTH = 1.3
MAX_POLL_S = 0.25
PROGRESS_EVERY_S = 0.5
WARM_UP_TRIES = 3
WARM_UP_PAUSE_S = 0.5
HEALTH_EVERY_S = 5.0
REFUSED_TWICE_S = 0.1  # one refusal may be a full backlog; two so far apart are a closed listener
SILENT_AGAIN_S = 0.5
SILENCES = 3  # unanswered polls in a row, each with its own timeout, before a child in doubt is deaf


@dataclass(frozen=True, slots=True)
class Report:
    event: Event
    evidence: str = ""


@dataclass(slots=True)
class Doubt:
    """``raised`` by whoever could not reach the child; ``deaf``: it was asked, and says and does nothing (`vigil`)."""

    raised: asyncio.Event = field(default_factory=asyncio.Event)
    deaf: bool = False


async def until_loaded(run: Run, tools: Tools, stall_s: float) -> Report:
    """Poll ``/health`` until it is 200, or until nothing has moved for ``stall_s`` seconds."""
    clock = tools.clock
    pause = FIRST_POLL_S
    signs, moved_at = run.progress(), clock.now()
    looked_at = moved_at
    while True:
        if await tools.prober.health(run.endpoint) is Health.READY:
            return Report(Event.HEALTHY)
        now = clock.now()
        if now - looked_at >= PROGRESS_EVERY_S:
            looked_at, fresh = now, run.progress()
            if fresh != signs:
                signs, moved_at = fresh, now
            elif now - moved_at >= stall_s:
                return Report(Event.STALLED, f"no sign of progress for {stall_s:g} s while loading")
        await clock.sleep(pause)
        pause = min(pause * POLL_GROWTH, MAX_POLL_S)


async def until_warm(run: Run, tools: Tools) -> Report:
    """Have one token made; a binary whose GPU is broken passes ``/health`` and fails here."""
    wrong: str | None = ""
    for attempt in range(WARM_UP_TRIES):
        if attempt:
            await tools.clock.sleep(WARM_UP_PAUSE_S)
        wrong = await tools.prober.warm_up(run.endpoint)
        if wrong is None:
            run.confine()
            return Report(Event.WARM)
    return Report(Event.STALLED, f"loaded, but {wrong}")


async def while_ready(run: Run, tools: Tools, doubt: Doubt, alive: Callable[[], None]) -> Report:
    """Poll until it refuses connections; note whether it is silent and idle while somebody doubts it.

    ``alive`` is called when it answers a doubt. Without a doubt silence means nothing: it may be busy.
    """
    poke = doubt.raised
    refusals = silences = 0
    signs: tuple[object, ...] = ()
    doubted = False  # kept until it is answered: whoever doubts waits for `alive`
    while True:
        if refusals:
            await tools.clock.sleep(REFUSED_TWICE_S)  # not shortened by a poke: a burst of them is one doubt
        elif doubted:
            await tools.clock.sleep(SILENT_AGAIN_S)
        else:
            await within(poke, HEALTH_EVERY_S, tools.clock)
        doubted |= poke.is_set()
        poke.clear()
        health = await tools.prober.health(run.endpoint)
        if health is Health.REFUSED:
            refusals += 1
            if refusals >= 2:
                return Report(Event.UNREACHABLE, "the process lives but refuses connections")
            continue
        refusals = 0
        fresh = run.progress()
        silences = silences + 1 if doubted and health is Health.SILENT and fresh == signs else 0
        signs = fresh
        doubt.deaf = silences >= SILENCES
        if doubted and health is Health.READY:
            doubted = False
            alive()
