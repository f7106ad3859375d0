"""The gate before a start: the model file is looked at, and its memory counted against the limit and the machine.

One for all instances, because ``memory.limit_mb`` is. Decisions are taken in the loop, one at a time, so that two
models that start at once see each other.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor.errors import ConfigError
from supervisor.events import InstanceView
from supervisor.proc import machine, modelfile, vitals
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.fitting import Need, Room, decide, need
from supervisor.types import MIB, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("memory")

HOLDING = frozenset({"STARTING", "LOADING", "READY", "DRAINING", "STOPPING", "UNKILLABLE"})


class Budget:
    """``views``: the newest view of each instance by its holder (`events.InstanceView`), whoever keeps them."""

    def __init__(
        self,
        *,
        limit_mb: int,
        min_free_mb: int,
        views: Mapping[str, InstanceView],
        measure: Callable[[], machine.Memory | None] = machine.memory,
    ) -> None:
        self._limit = limit_mb * MIB
        self._min_free = min_free_mb * MIB
        self._views = views
        self._measure = measure
        self._held: dict[str, Need] = {}  # by generations that were let through

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {held.certain_bytes // MIB} MiB" for name, held in self._held.items())
        return f"<Budget {self._limit // MIB} MiB: {held or 'nothing held'}>"

    @property
    def estimates(self) -> Mapping[str, int]:
        """Bytes each was counted with when it was last let through, by its holder."""
        return {name: held.certain_bytes for name, held in self._held.items()}

    def forget(self, name: ModelName) -> None:
        """It has been removed."""
        for holder in [holder for holder in self._held if holder.partition("#")[0] == name]:
            del self._held[holder]

    async def check(self, spec: ModelSpec) -> Cause | None:
        """None: it may start, and is counted from now on. Raises OSError as `modelfile.look` does."""
        holder = spec.holder
        self._held.pop(holder, None)
        found = await self._weigh(spec)
        if not isinstance(found, _Weighed):
            return found
        cause = self._decide(spec, found, frozenset())
        if cause is None:
            self._held[holder] = found.need
            log.info("fits", model=spec.name, estimate=str(found.need.estimate))
        return cause

    async def would_fit(self, spec: ModelSpec, *, without: Collection[str] = ()) -> Cause | None:
        """As `check`, if those holders were gone; nothing is counted for it. Raises likewise."""
        found = await self._weigh(spec)
        return self._decide(spec, found, without) if isinstance(found, _Weighed) else found

    async def estimate(self, spec: ModelSpec) -> int | None:
        """Bytes it would be counted with; None: nobody knows. Raises likewise."""
        found = await self._weigh(spec)
        return found.need.certain_bytes if isinstance(found, _Weighed) else None

    async def _weigh(self, spec: ModelSpec) -> "_Weighed | Cause | None":
        """What it takes, or why it cannot start; None: llama-server decides."""
        seen, there = await asyncio.to_thread(self._look, Path(spec.path))
        if seen.cause is not None:
            return seen.cause
        if seen.doubt:
            log.warning("model file in doubt; llama-server decides", model=spec.name, doubt=seen.doubt)
        if seen.header is None or seen.header.tensor_count == 0:
            return None
        try:
            return _Weighed(need(spec, seen.header), there)
        except ConfigError:
            return None  # llama-server refuses the flag and says so

    def _look(self, path: Path) -> tuple[modelfile.Look, machine.Memory | None]:
        return modelfile.look(path), self._measure()

    def _decide(self, spec: ModelSpec, found: "_Weighed", without: Collection[str]) -> Cause | None:
        held = {name: one for name, one in self._held.items() if name != spec.holder and self._lives(name)}
        others = {name: one for name, one in held.items() if name not in without}
        coming = sum(max(0, one.at_once_bytes - self._resident(name)) for name, one in others.items())
        freed = sum(self._resident(name) for name in held.keys() - others.keys())
        there = found.there
        room = Room(
            limit=self._limit,
            others=sum(one.certain_bytes for one in others.values()),
            total=there.total - self._min_free if there is not None else None,
            available=there.available - self._min_free - coming + freed if there is not None else None,
        )
        return decide(spec, found.need, room)

    def _lives(self, holder: str) -> bool:
        view = self._views.get(holder)
        return view is not None and view.state in HOLDING

    def _resident(self, holder: str) -> int:
        """What is in use already is no longer among what is available."""
        pid = self._views[holder].pid
        signs = vitals.read(pid) if pid is not None else None
        return signs.rss_bytes if signs is not None else 0


@dataclass(frozen=True, slots=True)
class _Weighed:
    need: Need
    there: machine.Memory | None
