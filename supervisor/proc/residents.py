"""Which models are in memory: they come when they are asked for, and leave when nobody has asked for long, or to make room.

A model that does not fit because others are loaded takes the place of the one that has been idle for longest. Standbys
go first, since nobody is served by them; the default model goes last, since requests without a name are its own. Nobody is unloaded
with a request in flight or waiting, in vain (where all of them together would not do), or for a model that nobody has
asked for: what is only loaded because llmsup starts, or starts it again, takes what is free.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from supervisor.clock import Clock
from supervisor.proc.budget import Budget
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.fitting import DOES_NOT_FIT
from supervisor.proc.fleet import Fleet
from supervisor.proc.lineup import Lineup
from supervisor.proc.state import Event
from supervisor.types import ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("residents")

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one model: whether a request is at it or waits for it, and how many were sent to it so far."""

    busy: bool
    asked: int


@dataclass(slots=True)
class _Use:
    asked: int = 0
    last_at: float = 0.0


class Residents:
    """``usage`` tells of a model's requests; ``default``: the model of requests without a name, now."""

    def __init__(
        self,
        fleet: Fleet,
        budget: Budget,
        clock: Clock,
        *,
        usage: Callable[[ModelName], Usage],
        default: ModelName,
    ) -> None:
        self._fleet = fleet
        self._budget = budget
        self._clock = clock
        self._usage = usage
        self.default = default
        self._uses: dict[ModelName, _Use] = {}
        self._ordered: set[ModelName] = set()  # by an operator, not loaded yet
        self._renewing: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # one makes room at a time, so that not two are unloaded for one

    # ---- they come

    def wanted(self, name: ModelName) -> None:
        """A request waits for it. Said for each of them: only the first changes anything."""
        lineup = self._fleet.lineups[name]
        if lineup.view().on_demand:
            log.info("loading for a request", model=name)
            lineup.front.post(Event.START)

    async def load(self, name: str) -> None:
        """An operator's wish, for which others may have to leave.

        Raises:
            NotFound: no such model.
        """
        lineup = self._fleet.lineup(name)
        if not lineup.view().ready:
            self._ordered.add(lineup.name)
        await lineup.command(Event.START)

    async def check(self, spec: ModelSpec) -> Cause | None:
        """Before a start; None: it may. Those who have to leave for it have left on return."""
        cause = await self._budget.check(spec)
        if not _for_others(cause) or not self._asked_for(spec):
            self._settle(spec, cause)
            return cause
        async with self._turn:
            while _for_others(cause := await self._budget.check(spec)):
                victims = await self._enough(spec)
                if not victims:
                    break
                for victim in victims:
                    await self._make_leave(victim, spec)
        self._settle(spec, cause)
        return cause

    def _settle(self, spec: ModelSpec, cause: Cause | None) -> None:
        if cause is None:
            self._ordered.discard(ModelName(spec.name))

    def _asked_for(self, spec: ModelSpec) -> bool:
        """Not for a second one: it is not needed as badly as what is served now."""
        name = ModelName(spec.name)
        in_service = self._fleet.lineups[name].front.seat == spec.seat
        return in_service and (name in self._ordered or self._usage(name).busy)

    def renewed(self, name: ModelName) -> None:
        """Its llama-server is configured otherwise now: what is loaded is replaced, what is not is left so."""
        if self._fleet.views[name].wanted:
            task = asyncio.create_task(self._fleet.restart(name, self.room), name=f"renew.{name}")
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)

    async def room(self, spec: ModelSpec) -> Cause | None:
        """Whether there is memory for it beside all that is there."""
        try:
            return await self._budget.would_fit(spec)
        except OSError as exc:
            return Cause("spawn_failed", f"not possible just now: {exc!r}")

    # ---- they leave

    async def unload(self, name: str, reason: str = "operator") -> None:
        """Out of memory when its requests are answered; the next request loads it again.

        Raises:
            NotFound: no such model.
        """
        lineup = self._fleet.lineup(name)
        self._ordered.discard(lineup.name)
        await lineup.unload(reason, self._clock.wall())

    async def _enough(self, spec: ModelSpec) -> list[Lineup]:
        """As few as will do, in the order in which they leave; none where all would not do."""
        self._note()
        without: set[str] = set()
        chosen: list[Lineup] = []
        for lineup, holders in self._candidates(ModelName(spec.name)):
            chosen.append(lineup)
            without |= holders
            if await self._budget.would_fit(spec, without=without) is None:
                return chosen
        return []

    def _candidates(self, but: ModelName) -> Iterator[tuple[Lineup, set[str]]]:
        """Who could leave, first first, each with whose memory that frees."""
        others = [one for name, one in self._fleet.lineups.items() if name != but and not one.removed]
        for lineup in others:
            if lineup.standing_by:
                yield lineup, {lineup.instances[1].view().holder}
        idle = [one for one in others if one.view().ready and not self._usage(one.name).busy]
        for lineup in sorted(idle, key=lambda one: (one.name == self.default, self._idle_since(one))):
            yield lineup, {instance.view().holder for instance in lineup.instances}

    async def _make_leave(self, victim: Lineup, spec: ModelSpec) -> None:
        if victim.standing_by:
            await victim.release(f"its memory was needed for {spec.name}")
            await self._fleet.wait_for(lambda _: victim.second_at_rest)
        elif victim.removed:  # meanwhile: it leaves anyway
            await self._fleet.wait_for(lambda _: victim.at_rest)
        elif victim.view().ready and not self._usage(victim.name).busy:  # asked for meanwhile: it stays
            log.warning("unloading", model=victim.name, to_make_room_for=spec.name)
            await self.unload(victim.name, "evicted")
            await self._fleet.wait_for(lambda _: victim.at_rest)

    # ---- now and then

    async def keep(self) -> None:
        """For ever: unload what has been idle for its ``ttl_s``, and see to the standbys."""
        while True:
            await self._clock.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception:  # the next look may well succeed
                log.exception("look at the models failed")

    async def look(self) -> None:
        self._note()
        for lineup in list(self._fleet.lineups.values()):  # models come and go meanwhile
            if lineup.removed:
                continue
            ttl_s = lineup.terms.ttl_s
            idle = lineup.view().ready and not self._usage(lineup.name).busy
            if ttl_s is not None and idle and self._clock.now() - self._idle_since(lineup) >= ttl_s:
                await self.unload(lineup.name, "ttl")
            else:
                await lineup.tend(self.room)

    def _note(self) -> None:
        """Whoever has been asked since the last look, or is being asked, is in use."""
        for name in self._fleet.lineups:
            use, seen = self._uses.setdefault(name, _Use()), self._usage(name)
            if seen.busy or seen.asked != use.asked:
                use.asked, use.last_at = seen.asked, self._clock.now()

    def forget(self, name: ModelName) -> None:
        """It has been removed."""
        self._uses.pop(name, None)
        self._ordered.discard(name)

    def _idle_since(self, lineup: Lineup) -> float:
        return max(self._uses[lineup.name].last_at, lineup.view().since)


def _for_others(cause: Cause | None) -> bool:
    """Whether it is what others hold that keeps it from starting."""
    return cause is not None and cause.name == DOES_NOT_FIT and not cause.permanent
