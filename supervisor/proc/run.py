"""One generation from spawn to grave: the process, its pipe, its exit. Effects only, no decisions.

`Instance` owns at most one of these at a time; whatever a run reports carries its generation.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import structlog

from supervisor.clock import Clock
from supervisor.events import Endpoint
from supervisor.observe import redact
from supervisor.observe.logfile import LogFile
from supervisor.proc import orphans, reaper, spawn, vitals
from supervisor.proc.causes import ExitStatus
from supervisor.proc.command import MARKER
from supervisor.proc.confine import confine
from supervisor.proc.output import Output, signal_from_thread
from supervisor.proc.reaper import Watch
from supervisor.types import Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("run")

EOF_GRACE_S = 0.25  # the last words of a dead child are in the pipe; a grandchild may hold it open


@dataclass(slots=True)
class Run:
    """A generation's living part. ``ordered``: why we ended it, if we did; ``marker``: in the environment of all it starts;
    ``growth_bytes``: see `Launch`.
    """

    generation: Generation
    endpoint: Endpoint
    child: spawn.Child
    output: Output
    spawned_at: float
    exited: asyncio.Event
    _eof: asyncio.Event
    _watch: Watch
    marker: str = ""
    growth_bytes: int = 0
    ordered: str | None = None
    ready_at: float | None = None
    status: ExitStatus | None = field(default=None)

    def progress(self) -> tuple[object, ...]:
        """Changes whenever the process gets anything done: log, I/O, memory, processor."""
        signs = vitals.read(self.child.pid)
        if signs is None:
            return (self.output.bytes_read,)
        return (self.output.bytes_read, signs.io_bytes, signs.rss_bytes, round(signs.cpu_s, 1))

    def signs(self) -> vitals.Vitals | None:
        """What the kernel says of the process now."""
        return vitals.read(self.child.pid)

    def confine(self) -> None:
        """It serves: from now on its memory has a hard limit."""
        if self.growth_bytes:
            confine(self.child.pid, self.growth_bytes)

    async def bury(self, clock: Clock) -> tuple[ExitStatus, list[str]]:
        """After the exit: end the group, reap, collect the last words. The group is empty on return, or said not to be."""
        if self.status is None:
            self.status = reaper.reap(self.child)
        if not await reaper.group_gone(self.child, clock):
            log.error("group not empty", generation=self.generation, group=self.child.pid)
        for pid in await orphans.end(self.marker, clock) if self.marker else ():
            log.error("a process that left its group cannot be ended", generation=self.generation, pid=pid)
        await within(self._eof, EOF_GRACE_S, clock)
        return self.status, self.output.tail()

    def close(self) -> None:
        self._watch.close()


async def within(event: asyncio.Event, seconds: float, clock: Clock) -> bool:
    """Wait for the event, but not for ever."""
    if event.is_set():
        return True
    waiting = asyncio.ensure_future(event.wait())
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({waiting, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        timer.cancel()
    return event.is_set()


def new_key() -> str:
    """The secret a generation asks of whoever talks to it."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Launch:
    """What it takes to start one generation."""

    argv: list[str]
    env: dict[str, str]
    endpoint: Endpoint
    log: LogFile | None
    pass_fds: tuple[int, ...] = ()  # what the child inherits beside its outputs
    secret_env: frozenset[str] = frozenset()  # names in ``env``, beside those that speak for themselves
    growth_bytes: int = 0  # what it may take beyond what it has when it serves; 0: whatever there is


class Launcher:
    """The real way to start a run; tests have another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start(self, launch: Launch, generation: Generation, on_exit: Callable[[], None]) -> Run:
        """Spawn and watch; ``on_exit`` is called in the loop, once, when the process has ended.

        Raises:
            BuildError: the executable cannot be run.
            SpawnFailed: no process could be made, or none that can be looked after.
            OSError: no descriptors for its output.
        """
        loop = asyncio.get_running_loop()
        eof, exited = asyncio.Event(), asyncio.Event()
        secrets = redact.secrets_in(launch.env, launch.secret_env)
        output = Output(launch.log, signal_from_thread(loop, eof), secrets=secrets)
        try:
            child = spawn.spawn(launch.argv, launch.env, output_fd=output.write_fd, pass_fds=launch.pass_fds)
        except BaseException:
            output.abandon()
            raise

        def notice() -> None:
            exited.set()
            on_exit()

        try:
            output.start()
            watch = Watch(child, notice)
        except (OSError, RuntimeError) as exc:
            reaper.reap(child)
            raise spawn.SpawnFailed(f"no thread to look after it: {exc}", transient=True) from exc
        began, marker = self._clock.now(), launch.env.get(MARKER, "")
        return Run(
            generation, launch.endpoint, child, output, began, exited, eof, watch, marker, launch.growth_bytes
        )


def log_path(folder: Path, name: str) -> Path:
    """The file a model's output is copied to. Names may hold slashes, and one may be called as the daemon is."""
    return folder / f"llama-server.{quote(name, safe='')}.log"
