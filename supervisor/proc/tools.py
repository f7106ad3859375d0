"""The effects an instance may have, as small protocols, so that tests can bring their own."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from supervisor.clock import Clock
from supervisor.events import Death, Endpoint, Inside
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec, SupportsFlags
from supervisor.proc.filewatch import Stamps
from supervisor.proc.hang import Counters, Standing
from supervisor.proc.probe import Health
from supervisor.proc.run import Launch, Run
from supervisor.types import Generation, ModelName


class Executable(SupportsFlags, Protocol):
    @property
    def path(self) -> Path: ...


class StartsRuns(Protocol):
    def start(self, launch: Launch, generation: Generation, on_exit: Callable[[], None]) -> Run: ...


class Probes(Protocol):
    async def health(self, at: Endpoint) -> Health: ...
    async def warm_up(self, at: Endpoint) -> str | None: ...
    async def canary(self, at: Endpoint) -> bool: ...
    async def counters(self, at: Endpoint) -> Counters | None: ...


class Traffic(Protocol):
    """The proxy, as far as an instance needs to know it."""

    async def drained(self, name: ModelName, generation: Generation, within_s: float) -> None:
        """Returns when no request is in flight to that generation, or after ``within_s``."""

    def standing(self, name: ModelName, generation: Generation) -> Standing:
        """What waits inside that generation, as of the latest sweep."""

    def abort(self, name: ModelName, generation: Generation) -> Inside:
        """Close all connections to that generation, and send it nothing any more; who was at it until now."""


async def _no_files(_: Path) -> Stamps:
    return ()


def _forget(_: Death) -> None:
    pass


def _uncounted() -> int | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    clock: Clock
    launcher: StartsRuns
    prober: Probes
    traffic: Traffic
    chance: Callable[[], float]  # uniform in [0, 1)
    find_binary: Callable[[], Awaitable[Executable]]
    check_model: Callable[[ModelSpec], Awaitable[Cause | None]]
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    stamps: Callable[[Path], Awaitable[Stamps]] = _no_files  # of the model and the binary (`filewatch`)
    record_death: Callable[[Death], None] = _forget
    oom_kills: Callable[[], int | None] = _uncounted  # of our cgroup so far (`cgroup`)
