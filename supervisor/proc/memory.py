"""What the children's memory consists of and where it is going; above the limit, which one to replace and when.

`Overseer` is pure: readings in, a verdict out. `MemoryWatch` takes the readings.

All of a child counts toward ``memory.limit_mb``: anonymous, swapped, shared and file-backed. Weights are mapped from
the file and the kernel can drop them, but then they are read again for every token; and the check before
a start counts them too, so that one number means one thing. What a replacement can give back is anonymous
growth alone, so a child is only replaced for that.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from supervisor.clock import Clock
from supervisor.events import InstanceView
from supervisor.proc import vitals
from supervisor.proc.gpu import GpuMemory
from supervisor.proc.pss import PssMemory
from supervisor.types import KIB, MIB, Generation, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("memory")

LOOK_EVERY_S = 5.0
LOOK_CLOSER_S = 1.0  # above the limit: a quiet moment may be short
QUIET_S = 5.0  # without a request in it, before a child counts as idle
PATIENCE_S = 60.0  # then it is drained at work: one that is never idle would grow for ever
RECYCLES, WINDOW_S = 3, 3600.0  # more do not help: the limit is too low for what is asked (FAULTS 33)
SETTLE_S = 30.0  # a replacement takes a while to show
MIN_GAIN_BYTES = 16 * MIB  # less growth than that since READY is not worth a replacement
HISTORY = 60  # looks: five minutes
PROC = Path("/proc")
_FIELDS = {"RssAnon:": "anon", "RssFile:": "file", "RssShmem:": "shmem", "VmSwap:": "swap"}


@dataclass(frozen=True, slots=True)
class Split:
    """Bytes of one process."""

    anon: int = 0
    file: int = 0
    shmem: int = 0
    swap: int = 0

    @property
    def total(self) -> int:
        return self.anon + self.file + self.shmem + self.swap

    @property
    def own(self) -> int:
        """What its end gives back for good."""
        return self.anon + self.swap


def read(pid: int, *, proc: Path = PROC) -> Split | None:
    """From ``status`` (50 us): ``smaps`` tells of shared pages too, but takes long (`pss`).

    None: there is no such process. Where there is no /proc, all its memory is taken for anonymous.
    """
    try:
        lines = [line.split() for line in (proc / str(pid) / "status").read_text().splitlines()]
    except OSError:
        signs = vitals.read(pid)
        return Split(anon=signs.rss_bytes) if signs is not None else None
    found = {_FIELDS[line[0]]: int(line[1]) * KIB for line in lines if line and line[0] in _FIELDS}
    return Split(**found) if found else None  # a zombie has none


@dataclass(frozen=True, slots=True)
class Reading:
    name: str  # the holder's (`events.InstanceView`)
    generation: Generation
    ready: bool
    split: Split
    in_flight: int


@dataclass(frozen=True, slots=True)
class Recycle:
    name: str  # the holder's (`events.InstanceView`)
    generation: Generation
    evidence: str


@dataclass(slots=True)
class _Track:
    """One generation. ``base``: its own memory when it was first seen READY."""

    generation: Generation
    base: int | None = None
    quiet_since: float | None = None
    history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=HISTORY))


class Overseer:
    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._tracks: dict[str, _Track] = {}
        self._recycled: deque[float] = deque(maxlen=RECYCLES)
        self._replaced = ""  # the last one
        self._over_since: float | None = None
        self.warning = ""  # while above the limit: what and why nothing (more) is done

    def look(self, now: float, readings: Sequence[Reading]) -> Recycle | None:
        """Take note; answers with what is to be replaced now, if anything."""
        for reading in readings:
            self._note(now, reading)
        used = sum(reading.split.total for reading in readings)
        if used <= self._limit:
            self._over_since, self.warning = None, ""
            return None
        if self._over_since is None:
            self._over_since = now
        over = f"llama-servers take {_mib(used)}, memory.limit_mb is {_mib(self._limit)}"
        self.warning = over
        if self._recycled and now - self._recycled[-1] < SETTLE_S:
            self.warning = f"{over}; {self._replaced} is being replaced and takes nothing new until it is"
            return None
        grown = [reading for reading in readings if reading.ready and self._gain(reading) >= MIN_GAIN_BYTES]
        if not grown:
            self.warning = f"{over}; none has grown since it was READY, so replacing one would not help"
            return None
        if len(self._recycled) == RECYCLES and now - self._recycled[0] < WINDOW_S:
            self.warning = f"{over}; {RECYCLES} were replaced within an hour, now none is: raise the limit"
            return None
        return self._choose(now, self._over_since, max(grown, key=self._gain), over)

    def _choose(self, now: float, over_since: float, culprit: Reading, over: str) -> Recycle | None:
        quiet_since = self._tracks[culprit.name].quiet_since
        idle = quiet_since is not None and now - quiet_since >= QUIET_S
        grew = f"{culprit.name} has grown by {_mib(self._gain(culprit))} since it was READY"
        if not idle and now - over_since < PATIENCE_S:
            at_last_s = PATIENCE_S - (now - over_since)
            self.warning = f"{over}; {grew}: replaced when it is idle, or in {at_last_s:.0f} s"
            return None
        self._recycled.append(now)
        self._replaced = culprit.name
        self.warning = f"{over}; {grew}: it takes nothing new and is being replaced"
        return Recycle(culprit.name, culprit.generation, f"{over}; {grew}")

    def _note(self, now: float, reading: Reading) -> None:
        track = self._tracks.get(reading.name)
        if track is None or track.generation != reading.generation:
            track = self._tracks[reading.name] = _Track(reading.generation)
        if reading.ready and track.base is None:
            track.base = reading.split.own
        if reading.in_flight:
            track.quiet_since = None
        elif track.quiet_since is None:
            track.quiet_since = now
        track.history.append((now, reading.split.total))

    def _gain(self, reading: Reading) -> int:
        base = self._tracks[reading.name].base
        return reading.split.own - base if base is not None else 0

    def begun(self, name: str, generation: Generation) -> bool:
        """Whether that generation's own memory at READY is known."""
        track = self._tracks.get(name)
        return track is not None and track.generation == generation and track.base is not None

    def begin(self, now: float, reading: Reading) -> None:
        """Take note of what it starts with: before the first look it may have grown already."""
        self._note(now, reading)

    def forget(self, name: ModelName) -> None:
        for holder in [holder for holder in self._tracks if holder.partition("#")[0] == name]:
            del self._tracks[holder]

    def trend(self, name: str) -> int:
        """Bytes a minute over the last looks; 0 where there are too few."""
        history = self._tracks[name].history if name in self._tracks else deque[tuple[float, int]]()
        if len(history) < 2 or history[-1][0] <= history[0][0]:
            return 0
        (began, first), (ended, last) = history[0], history[-1]
        return round((last - first) * 60 / (ended - began))


class MemoryWatch:
    """``in_flight``: requests inside a model's child; ``recycle`` asks its instance to replace that generation."""

    def __init__(
        self,
        *,
        limit_bytes: int,
        views: Mapping[str, InstanceView],
        in_flight: Callable[[ModelName], int],
        recycle: Callable[[str, Generation, str], None],
        clock: Clock,
        measure: Callable[[int], Split | None] = read,
        gpu: GpuMemory | None = None,
        pss: PssMemory | None = None,
    ) -> None:
        self._views = views
        self._in_flight = in_flight
        self._recycle = recycle
        self._clock = clock
        self._measure = measure
        self._gpu = gpu
        self._pss = pss
        self._overseer = Overseer(limit_bytes)
        self._said = False

    @property
    def warning(self) -> str:
        """Why memory is above the limit and stays there; "" when it is not."""
        return self._overseer.warning

    def figures(self, name: str) -> dict[str, int | None] | None:
        """For the status: bytes by kind and their trend; None: no process. ``pss_bytes`` is None while not known."""
        pid = self._views[name].pid
        split = self._measure(pid) if pid is not None else None
        if pid is None or split is None:
            return None
        return {
            "anon_bytes": split.anon,
            "file_bytes": split.file,
            "shmem_bytes": split.shmem,
            "swap_bytes": split.swap,
            "pss_bytes": self._pss.of(pid) if self._pss is not None else None,
            "gpu_bytes": self._gpu.of(pid) if self._gpu is not None else 0,
            "trend_bytes_per_min": self._overseer.trend(name),
        }

    def on_view(self, view: InstanceView) -> None:
        """For the fleet: something about an instance has changed."""
        if not view.ready or view.pid is None or self._overseer.begun(view.holder, view.generation):
            return
        if (split := self._measure(view.pid)) is not None:
            reading = Reading(view.holder, view.generation, True, split, self._in_flight(view.name))
            self._overseer.begin(self._clock.now(), reading)

    def forget(self, name: ModelName) -> None:
        """It has been removed."""
        self._overseer.forget(name)

    async def keep(self) -> None:
        """Look, for ever."""
        if self._gpu is not None:
            self._gpu.start()
        if self._pss is not None:
            self._pss.start()
        try:
            while True:
                await self._clock.sleep(LOOK_CLOSER_S if self._overseer.warning else LOOK_EVERY_S)
                try:
                    self.look()
                except Exception:  # the next look may well succeed
                    log.exception("look at memory failed")
        finally:
            for thread in (self._gpu, self._pss):
                if thread is not None:
                    thread.stop()

    def look(self) -> None:
        readings = [
            Reading(view.holder, view.generation, view.ready, split, self._in_flight(view.name))
            for view in list(self._views.values())
            if view.pid is not None and (split := self._measure(view.pid)) is not None
        ]
        verdict = self._overseer.look(self._clock.now(), readings)
        if self._overseer.warning and not self._said:
            log.warning("memory above the limit", why=self._overseer.warning)
        self._said = bool(self._overseer.warning)
        if verdict is not None:
            log.warning("replacing", model=verdict.name, why=verdict.evidence)
            self._recycle(verdict.name, verdict.generation, verdict.evidence)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
