"""The gate before a start: the model file is looked at, and its memory counted against the limit and the machine.

One for all instances, because ``memory.limit_mb`` is. Decisions are taken in the loop, one at a time, so that two
models that start at once see each other.
"""

import asyncio
from collections.abc import Callable, Mapping
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
    """``views``: the newest view of each instance, whoever keeps them."""

    def __init__(
        self,
        *,
        limit_mb: int,
        min_free_mb: int,
        views: Mapping[ModelName, InstanceView],
        measure: Callable[[], machine.Memory | None] = machine.memory,
    ) -> None:
        self._limit = limit_mb * MIB
        self._min_free = min_free_mb * MIB
        self._views = views
        self._measure = measure
        self._held: dict[ModelName, Need] = {}  # by generations that were let through

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {held.certain_bytes // MIB} MiB" for name, held in self._held.items())
        return f"<Budget {self._limit // MIB} MiB: {held or 'nothing held'}>"

    @property
    def estimates(self) -> Mapping[ModelName, int]:
        """Bytes each model was counted with when it was last let through."""
        return {name: held.certain_bytes for name, held in self._held.items()}

    async def check(self, spec: ModelSpec) -> Cause | None:
        """None: it may start. Raises OSError as `modelfile.look` does."""
        name = ModelName(spec.name)
        self._held.pop(name, None)
        seen, there = await asyncio.to_thread(self._look, Path(spec.path))
        if seen.cause is not None:
            return seen.cause
        if seen.doubt:
            log.warning("model file in doubt; llama-server decides", model=name, doubt=seen.doubt)
        if seen.header is None or seen.header.tensor_count == 0:
            return None
        try:
            wanted = need(spec, seen.header)
        except ConfigError:
            return None  # llama-server refuses the flag and says so
        return self._admit(spec, name, wanted, there)

    def _look(self, path: Path) -> tuple[modelfile.Look, machine.Memory | None]:
        return modelfile.look(path), self._measure()

    def _admit(
        self, spec: ModelSpec, name: ModelName, wanted: Need, there: machine.Memory | None
    ) -> Cause | None:
        others = {other: held for other, held in self._held.items() if self._lives(other)}
        coming = sum(max(0, held.at_once_bytes - self._resident(other)) for other, held in others.items())
        room = Room(
            limit=self._limit,
            others=sum(held.certain_bytes for held in others.values()),
            total=there.total - self._min_free if there is not None else None,
            available=there.available - self._min_free - coming if there is not None else None,
        )
        cause = decide(spec, wanted, room)
        if cause is None:
            self._held[name] = wanted
            log.info("fits", model=name, estimate=str(wanted.estimate), others_mib=room.others // MIB)
        return cause

    def _lives(self, name: ModelName) -> bool:
        view = self._views.get(name)
        return view is not None and view.state in HOLDING

    def _resident(self, name: ModelName) -> int:
        """What is in use already is no longer among what is available."""
        pid = self._views[name].pid
        signs = vitals.read(pid) if pid is not None else None
        return signs.rss_bytes if signs is not None else 0
