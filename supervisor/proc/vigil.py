"""Looking for a child that hangs while it serves: takes the looks and sends the canaries that `hang` asks for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from supervisor.proc.command import ModelSpec
from supervisor.proc.hang import (
    KILLS,
    LOOK_EVERY_S,
    WINDOW_S,
    Canary,
    Finding,
    Inquiry,
    Look,
    Ration,
    Spin,
    Verdict,
)
from supervisor.proc.run import Run
from supervisor.proc.state import Event
from supervisor.proc.tools import Tools
from supervisor.proc.watch import Doubt, Report
from supervisor.types import ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("vigil")


SLEEP_FLAG, SLEEP_VARIABLE = "--sleep-idle-seconds", "LLAMA_ARG_SLEEP_IDLE_SECONDS"


def may_sleep(spec: ModelSpec) -> bool:
    """Whether it lets go of its model when idle: a canary would wake it up, and keep it from sleeping."""
    return SLEEP_VARIABLE in spec.env or any(arg.split("=", 1)[0] == SLEEP_FLAG for arg in spec.args)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """In words, or None. ``hangs``: requests are held back, and it is killed if that is confirmed; ``spins``: people are
    told, and that is all.
    """

    hangs: str | None = None
    spins: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """``say`` is told whenever the suspicion changes; True: because a canary was answered."""

    name: ModelName
    limit_s: float
    idle_canaries: bool
    ration: Ration
    say: Callable[[Suspicion, bool], None]


class Vigil:
    """Over one run, for as long as it serves."""

    def __init__(self, run: Run, tools: Tools, doubt: Doubt, terms: Terms) -> None:
        self._run = run
        self._tools = tools
        self._doubt = doubt
        self._terms = terms
        self._inquiry = Inquiry(terms.limit_s, idle_canaries=terms.idle_canaries)
        self._spin = Spin(terms.limit_s)
        self._canary: asyncio.Task[bool] | None = None
        self._said = Suspicion()

    async def keep(self) -> Report:
        """Returns when the child is to be killed for hanging, with the evidence."""
        clock = self._tools.clock
        try:
            while True:
                await clock.sleep(LOOK_EVERY_S)
                look = await self._look()
                self._say_spins(self._spin.see(look) or None)
                verdict = self._inquiry.see(look)
                if verdict.finding is Finding.CONFIRMED:
                    if self._terms.ration.take(clock.now()):
                        return Report(Event.HUNG, verdict.text)
                    self._spare(verdict)
                elif verdict.finding is Finding.SUSPECT:
                    self._say(self._said.hangs or verdict.text)
                else:
                    self._say(None, answered=verdict.finding is Finding.CLEARED)
                self._tend_canary()
        finally:
            self._end_canary()

    async def _look(self) -> Look:
        clock, signs = self._tools.clock, self._run.signs()
        asked = self._inquiry.wants_counters(clock.now()) or self._spin.wants_counters(clock.now())
        counters = await self._tools.prober.counters(self._run.endpoint) if asked else None
        return Look(
            at=clock.now(),
            state=signs.state if signs is not None else "",
            cpu_s=signs.cpu_s if signs is not None else 0.0,
            major_faults=signs.major_faults if signs is not None else 0,
            standing=self._tools.traffic.standing(self._terms.name, self._run.generation),
            asked=asked,
            counters=counters,
            canary=self._canary_now(),
            deaf=self._doubt.deaf,
        )

    # ---- canaries

    def _canary_now(self) -> Canary:
        if self._canary is None:
            return Canary.ABSENT
        if not self._canary.done():
            return Canary.WAITING
        return Canary.ANSWERED if self._canary.result() else Canary.UNSENT

    def _tend_canary(self) -> None:
        """One is under way exactly while one is wanted."""
        if not self._inquiry.wants_canary or (self._canary is not None and self._canary.done()):
            self._end_canary()
        if self._inquiry.wants_canary and self._canary is None:
            asking = self._tools.prober.canary(self._run.endpoint)
            self._canary = asyncio.create_task(asking, name=f"{self._terms.name}.canary")

    def _end_canary(self) -> None:
        if self._canary is not None:
            self._canary.cancel()
            self._canary = None

    # ---- words

    def _say(self, suspect: str | None, *, answered: bool = False) -> None:
        if suspect == self._said.hangs:
            return
        if suspect is None:
            log.info("it lives: suspicion cleared", model=self._terms.name)
        else:
            log.warning("suspected to hang", model=self._terms.name, pid=self._run.child.pid, why=suspect)
        self._tell(replace(self._said, hangs=suspect), answered=answered)

    def _say_spins(self, why: str | None) -> None:
        if why == self._said.spins:
            return
        if why is None:
            log.info("it has got on", model=self._terms.name)
        else:
            log.warning("spins", model=self._terms.name, pid=self._run.child.pid, why=why)
        self._tell(replace(self._said, spins=why), answered=False)

    def _tell(self, suspicion: Suspicion, *, answered: bool) -> None:
        self._said = suspicion
        self._terms.say(suspicion, answered)

    def _spare(self, verdict: Verdict) -> None:
        text = f"hangs, and is left alone after {KILLS} kills for that within {WINDOW_S / 60:.0f} min: {verdict.text}"
        log.error("hung", model=self._terms.name, pid=self._run.child.pid, why=text)
        self._inquiry.spare(self._tools.clock.now())
        self._tell(replace(self._said, hangs=text), answered=False)
