"""Stand-ins for everything an instance touches, and a stage with a fleet of fakes on it."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.events import NOBODY, Death, Endpoint, Inside, InstanceView
from supervisor.proc import reaper
from supervisor.proc.causes import Cause, ExitStatus
from supervisor.proc.command import ModelSpec
from supervisor.proc.filewatch import Stamps
from supervisor.proc.fleet import Fleet
from supervisor.proc.hang import Counters, Standing
from supervisor.proc.instance import Instance
from supervisor.proc.lineup import SECOND, Lineup, Terms
from supervisor.proc.probe import Health
from supervisor.proc.state import Event
from supervisor.proc.tools import Tools
from supervisor.proc.vitals import Vitals
from supervisor.types import Generation, ModelName
from tests.support.clock import FakeClock


def spec(name: str = "demo", **changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "name": name,
        "path": "/models/demo.gguf",
        "context_size": 4096,
        "threads": 2,
        "batch_size": 256,
        "parallel": 4,
        "gpu_layers": 0,
        "args": (),
        "env": {},
        "max_tokens": None,
        "cache_ram_mb": 512,
    }
    return ModelSpec(**{**facts, **changes})


class FakeBinary:
    def __init__(self, *lacking: str) -> None:
        self.path = Path("/opt/llama-server")
        self._lacking = lacking

    def supports(self, flag: str) -> bool:
        return flag not in self._lacking


class FakeChild:
    def __init__(self, pid: int, deliver: Callable[[int], None]) -> None:
        self.pid = pid
        self.deliver = deliver


class FakeOutput:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tail(self, lines: int = 60) -> list[str]:
        return self.lines[-lines:]


class FakeRun:
    """A generation that dies when told to: by ``die``, or by a signal that is not in ``ignores``."""

    _pids = itertools.count(70001)

    def __init__(
        self, generation: Generation, endpoint: Endpoint, now: float, on_exit: Callable[[], None]
    ) -> None:
        self.generation = generation
        self.endpoint = endpoint
        self.child = FakeChild(next(self._pids), self.deliver)
        self.output = FakeOutput()
        self.spawned_at = now
        self.exited = asyncio.Event()
        self.ordered: str | None = None
        self.ready_at: float | None = None
        self.status: ExitStatus | None = None
        self.buried = self.confined = False
        self.progressed: object = 0
        self.vitals = Vitals(rss_bytes=1, cpu_s=0.0, io_bytes=0, state="S")
        self.ignores: set[int] = set()
        self.signals: list[signal.Signals] = []
        self._end = ExitStatus(code=0)
        self._on_exit = on_exit

    def deliver(self, number: int) -> None:
        self.signals.append(signal.Signals(number))
        if number in {signal.SIGTERM, signal.SIGKILL} - self.ignores and not self.exited.is_set():
            self.die(signal=number)

    def die(self, *lines: str, code: int | None = None, signal: int | None = None) -> None:
        self.output.lines += lines
        self._end = ExitStatus(code=code, signal=signal)
        self.exited.set()
        self._on_exit()

    def progress(self) -> tuple[object, ...]:
        return (self.progressed,)

    def signs(self) -> Vitals:
        return self.vitals

    def confine(self) -> None:
        self.confined = True

    async def bury(self, clock: object) -> tuple[ExitStatus, list[str]]:
        assert self.exited.is_set(), "buried alive"
        self.status, self.buried = self._end, True
        return self._end, self.output.tail()


class FakeLauncher:
    """Never lets two runs live at once; ``failures`` are raised one by one before anything starts."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.runs: list[FakeRun] = []
        self.launches: list[Any] = []
        self.failures: list[Exception] = []
        self.on_start: Callable[[FakeRun], None] = lambda _: None

    def start(self, launch: Any, generation: Generation, on_exit: Callable[[], None]) -> Any:
        assert all(run.buried for run in self.runs), "two generations at once"
        if self.failures:
            raise self.failures.pop(0)
        run = FakeRun(generation, launch.endpoint, self._clock.now(), on_exit)
        self.launches.append(launch)
        self.runs.append(run)
        self.on_start(run)
        return run


class FakeProber:
    def __init__(self) -> None:
        self.state: Health | Exception = Health.READY
        self.next: list[Health] = []  # these first
        self.wrong: str | None = None
        self.asked = 0
        self.hangs = False  # completions get no answer
        self.canaries = self.living_canaries = 0
        self.counts: Counters | None = Counters(0, 0, 0)
        self.counts_asked = 0

    async def health(self, at: Endpoint) -> Health:
        self.asked += 1
        if self.next:
            return self.next.pop(0)
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    async def warm_up(self, at: Endpoint) -> str | None:
        return self.wrong

    async def canary(self, at: Endpoint) -> bool:
        self.canaries += 1
        self.living_canaries += 1
        try:
            while self.hangs:
                await asyncio.sleep(0)  # without end, and without a timer: the clock is a fake
        finally:
            self.living_canaries -= 1
        return True

    async def counters(self, at: Endpoint) -> Counters | None:
        self.counts_asked += 1
        return self.counts


class FakeTraffic:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.busy = False
        self.standing_now = Standing(0, 0.0)
        self.aborted: list[int] = []
        self.inside: Inside = NOBODY
        self.broken: Exception | None = None

    async def drained(self, name: ModelName, generation: Generation, within_s: float) -> None:
        if self.broken:
            raise self.broken
        if self.busy:
            await self._clock.sleep(within_s)

    def standing(self, name: ModelName, generation: Generation) -> Standing:
        return self.standing_now

    def abort(self, name: ModelName, generation: Generation) -> Inside:
        if self.broken:
            raise self.broken
        self.aborted.append(generation)
        return self.inside


class Stage:
    """A fleet of one or more instances on fakes. ``views`` are all that were published, oldest first.

    ``terms``: each model gets a second instance, with a launcher of its own: ``seconds``.
    """

    def __init__(self, *names: str, terms: Mapping[str, Terms] | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.prober = FakeProber()
        self.traffic = FakeTraffic(self.clock)
        self.broken_model: Cause | Exception | Callable[[ModelSpec], Cause | None] | None = None
        self.broken_binary: Exception | None = None
        self.check: Callable[[ModelSpec], Awaitable[Cause | None]] = self._look_at_model
        self.looking: asyncio.Event | None = None  # when set, a look at the model waits for it
        self.oom_kills: int | None = 0
        self.files: Stamps = ((1, 1, 1, 1), (1, 1, 1, 1))  # stamps of the model and the binary
        self.deaths: list[Death] = []
        self.views: list[InstanceView] = []
        self.fleet = Fleet(self.clock)
        self.launchers = {name: FakeLauncher(self.clock) for name in names or ("demo",)}
        self.seconds = {name: FakeLauncher(self.clock) for name in terms or ()}
        numbers = {name: itertools.count(1) for name in self.launchers}
        seats = [("", one) for one in self.launchers.items()] + [
            (SECOND, one) for one in self.seconds.items()
        ]
        self.fleet.add(
            (
                self._instance(name, launcher, seat, numbers=numbers[name], **options)
                for seat, (name, launcher) in seats
            ),
            {ModelName(name): one for name, one in (terms or {}).items()},
        )
        self.fleet.subscribe(self.views.append)

    def _instance(self, name: str, launcher: FakeLauncher, seat: str, **options: Any) -> Instance:
        tools = Tools(
            clock=self.clock,
            launcher=launcher,
            prober=self.prober,
            traffic=self.traffic,
            chance=lambda: 0.0,
            find_binary=self._find_binary,
            check_model=self._check_model,
            environ={},
            stamps=self._stamps,
            record_death=self.deaths.append,
            oom_kills=lambda: self.oom_kills,
        )
        return Instance(spec(name, seat=seat), tools, self.fleet.publish, **options)

    async def _stamps(self, path: Path) -> Stamps:
        return self.files

    async def _find_binary(self) -> FakeBinary:
        if self.broken_binary is not None:
            raise self.broken_binary
        return FakeBinary()

    async def _check_model(self, spec: ModelSpec) -> Cause | None:
        return await self.check(spec)

    async def _look_at_model(self, spec: ModelSpec) -> Cause | None:
        if self.looking is not None:
            await self.looking.wait()
        if isinstance(self.broken_model, Exception):
            raise self.broken_model
        return self.broken_model(spec) if callable(self.broken_model) else self.broken_model

    @property
    def instance(self) -> Instance:
        return self.fleet.find("demo")

    @property
    def lineup(self) -> Lineup:
        return self.fleet.lineup("demo")

    def living(self, name: str = "demo") -> list[FakeRun]:
        """The model's processes now, oldest first."""
        both = [*self.launchers[name].runs, *self.seconds[name].runs]
        return sorted((run for run in both if not run.buried), key=lambda run: run.generation)

    @property
    def launcher(self) -> FakeLauncher:
        return self.launchers["demo"]

    @property
    def run(self) -> FakeRun:
        """The newest generation of the first model."""
        return self.launcher.runs[-1]

    @property
    def view(self) -> InstanceView:
        return self.fleet.views[ModelName("demo")]

    def states(self) -> list[str]:
        """What was seen of the first model, without repetitions."""
        return [state for state, _ in itertools.groupby(v.state for v in self.views if v.name == "demo")]

    async def tell(self, *events: Event) -> None:
        """Post all in one go, then let them be worked through."""
        for event in events:
            self.instance.post(event)
        await self.clock.settle()

    async def start(self) -> None:
        await self.tell(Event.START)
        await self.clock.advance(0.1)

    async def die(self, *lines: str, **status: int) -> None:
        self.run.die(*lines, **status)
        await self.clock.settle()


@contextlib.asynccontextmanager
async def stage(monkeypatch: pytest.MonkeyPatch, *names: str, **options: Any) -> AsyncIterator[Stage]:
    """A working fleet whose signals reach the fakes only."""
    monkeypatch.setattr(reaper, "signal_leader", lambda child, number: child.deliver(number))
    monkeypatch.setattr(reaper, "signal_group", lambda child, number: child.deliver(number))
    it = Stage(*names, **options)
    it.fleet.open()
    await it.clock.settle()
    try:
        yield it
    finally:
        await it.fleet.close()


async def eventually(holds: Callable[[], bool], within_s: float = 2.0) -> None:
    """Bounded waiting for real processes and threads."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.002)


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
