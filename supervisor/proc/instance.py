"""One child of a model over all its generations. Its own task is the only writer of its state.

Everybody else sends events to the mailbox and reads the frozen `InstanceView` published after each
change. An event that belongs to a generation carries its number, and is dropped when that is past.
What to do is decided in `state` (the table), `backoff` (after an exit) and `causes`; what is awaited
for long (probes, draining, the kill ladder) runs as a job of its own and reports back by an event.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from supervisor.events import NOBODY, Inside, InstanceView
from supervisor.proc import filewatch, ports, watch
from supervisor.proc.autopsy import ORDERED, Findings, cause_of, end_of
from supervisor.proc.backoff import End, stable_after_s
from supervisor.proc.birth import compose, obstacle
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.hang import Ration
from supervisor.proc.history import TRY_AGAIN_S, History, Profiles
from supervisor.proc.jobs import Jobs
from supervisor.proc.output import LogFile
from supervisor.proc.run import Run
from supervisor.proc.state import Action, Event, State, step
from supervisor.proc.stop import FAST_LADDER, LADDER, NOW_LADDER, Rung, descend
from supervisor.proc.tools import Tools
from supervisor.proc.vigil import Suspicion, Terms, Vigil, may_sleep
from supervisor.proc.witness import Witness
from supervisor.types import Generation, ModelName

__all__ = ["Instance", "Tools"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("instance")

LOOK_S = 30.0  # for the model file and the binary; a file server that hangs must not hold up a stop


@dataclass(frozen=True, slots=True)
class _Message:
    event: Event | None  # None: the run has exited, still to be judged
    generation: Generation | None
    done: asyncio.Future[None] | None = None
    evidence: str = ""


class Instance:
    def __init__(
        self,
        spec: ModelSpec,
        tools: Tools,
        publish: Callable[[InstanceView], None],
        *,
        port: int = 0,
        startup_stall_s: float = 60.0,
        drain_s: float = 30.0,
        silence_s: float = 60.0,
        log_file: LogFile | None = None,
        safe: ModelSpec | None = None,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.name, self.seat, self.spec = ModelName(spec.name), spec.seat, spec
        self._numbers = numbers or itertools.count(1)  # of generations; one count for both of a model
        self._history = History(Profiles(spec, safe), tools)
        self._spec = spec  # of the newest generation: as configured, or the safe profile
        self._tools, self._publish_view = tools, publish
        self.port, self._startup_stall_s = port, startup_stall_s
        self._drain_s, self._silence_s = drain_s, silence_s
        self._log_file = log_file
        self._mailbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._state = State.STOPPED
        self._since = tools.clock.now()
        self._wanted, self._generation = False, Generation(0)
        self._next_try_at: float | None = None
        self._files: filewatch.Stamps = ()  # as they were before the newest generation
        self._evidence = ""  # what a job saw before it asked for the end of a run
        self._run: Run | None = None
        self._witness: Witness | None = None
        self._checks = 0
        self._hurry = asyncio.Event()
        self._doubt = watch.Doubt()
        self._suspicion = Suspicion()
        self._hang_kills = Ration()
        self._jobs = Jobs(spec.holder)
        self._perform: dict[Action, Callable[[Event], Awaitable[Event | None]]] = {
            Action.WANT_UP: partial(self._want, True),
            Action.WANT_DOWN: partial(self._want, False),
            Action.FORGIVE: self._forgive,
            Action.SPAWN: self._spawn,
            Action.WATCH_LOAD: self._watch_load,
            Action.WARM_UP: self._warm_up,
            Action.WATCH: self._watch,
            Action.DRAIN: self._drain,
            Action.KILL: partial(self._kill, LADDER),
            Action.KILL_FAST: partial(self._kill, FAST_LADDER),
            Action.KILL_NOW: partial(self._kill, NOW_LADDER),
            Action.HURRY: self._hurry_up,
            Action.ARM_DELAY: self._arm_delay,
            Action.DISARM_DELAY: self._disarm_delay,
            Action.WATCH_FILES: self._watch_files,
        }

    def __repr__(self) -> str:
        return f"<Instance {self.name}{self.seat} {self._state} generation {self._generation}>"

    # ---- from outside: messages in, views out

    def post(self, event: Event | None, generation: Generation | None = None) -> None:
        """Send and forget. ``None`` is a raw exit."""
        self._mailbox.put_nowait(_Message(event, generation))

    async def command(self, event: Event) -> None:
        """Send an operator's wish; returns when it has been taken up (not: carried out)."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mailbox.put_nowait(_Message(event, None, done))
        await done

    def recycle(self, generation: Generation, evidence: str) -> None:
        """Ask for the replacement of that generation, after draining."""
        self._mailbox.put_nowait(_Message(Event.RECYCLE, generation, evidence=evidence))

    def poke(self, generation: Generation) -> None:
        """Somebody could not reach that generation: look at once instead of at the next poll."""
        if generation == self._generation:
            self._doubt.raised.set()

    def renew(self, spec: ModelSpec, safe: ModelSpec | None, *, port: int, startup_stall_s: float) -> None:
        """As it is configured now, from its next generation on."""
        self.spec, self.port, self._startup_stall_s = spec, port, startup_stall_s
        self._history.profiles = Profiles(spec, safe)

    def view(self) -> InstanceView:
        run = self._run
        return InstanceView(
            name=self.name,
            state=self._state.value,
            generation=self._generation,
            pid=run.child.pid if run is not None else None,
            endpoint=run.endpoint if run is not None else None,
            slots=self._spec.parallel,
            model_path=self._spec.path,
            context_size=self._spec.context_size,
            restarts=self._history.restarts,
            since=self._since,
            spawned_at=run.spawned_at if run is not None else None,
            next_try_at=self._next_try_at,
            wanted=self._wanted,
            last_death=self._history.last_death,
            checks=self._checks,
            suspect=self._suspicion.hangs,
            spins=self._suspicion.spins,
            degraded=self._history.degraded,
            seat=self.seat,
        )

    # ---- the one writer

    async def serve(self) -> None:
        """Work through the mailbox, for ever. Called again after an error of our own."""
        await self._mend()
        self._publish()
        while True:
            message = await self._mailbox.get()
            try:
                await self._take(message)
            finally:  # also when it failed: nobody may wait for ever
                if message.done is not None and not message.done.done():
                    message.done.set_result(None)

    async def _mend(self) -> None:
        """Whatever an error left half done is ended, and its end leads on in the usual way."""
        run = self._run
        if run is not None:
            self._state = State.STOPPING
            if run.ordered is None:  # and not what its jobs have seen meanwhile
                run.ordered, self._evidence = "internal_error", "llmsup's own task failed: see its log"
            await self._kill(FAST_LADDER, Event.DRAINED)
            if run.exited.is_set():
                self.post(None, run.generation)
        elif not self._wanted:
            self._state = State.STOPPED
        elif self._state is not State.FAILED:
            self._state, self._history.delay_s = State.BACKOFF, TRY_AGAIN_S
            for action in (self._disarm_delay, self._arm_delay, self._watch_files):
                await action(Event.GONE_BACKOFF)

    async def _take(self, message: _Message) -> None:
        if message.generation is not None and message.generation != self._generation:
            return
        if message.event is not None:
            self._evidence = message.evidence or self._evidence
            await self._apply(message.event)
        elif self._run is not None:
            await self._apply(await self._bury())

    async def _apply(self, first: Event) -> None:
        events = deque([first])
        while events:
            event = events.popleft()
            target, actions = step(self._state, event)
            if target is not self._state:
                log.info(
                    "state", model=self.name, was=self._state.value, now=target.value, because=event.value
                )
                self._state, self._since = target, self._tools.clock.now()
                if target not in {State.BACKOFF, State.CRASHLOOP}:
                    self._next_try_at = None
            for action in actions:
                follow = await self._perform[action](event)
                if follow is not None:
                    events.append(follow)
            self._publish()

    def _publish(self) -> None:
        self._publish_view(self.view())

    # ---- actions

    async def _want(self, up: bool, _: Event) -> None:
        self._wanted = up

    async def _forgive(self, event: Event) -> None:
        self._history.forgive(event)

    async def _spawn(self, _: Event) -> Event:
        """Start the next generation; what stands in the way of it is an end like any other."""
        self._generation = Generation(next(self._numbers))
        self._evidence = ""
        self._end_jobs()  # the look at the files, when it is the delay that is over
        self._spec = self._history.spec
        self._publish()  # STARTING is seen while the file and the binary are looked at
        try:
            cause = await self._begin()
        except Exception as exc:  # noqa: BLE001  each is an end with a cause
            cause = obstacle(exc, self.name)
        if cause is None:
            return Event.SPAWNED
        end = End(wished=not self._wanted, permanent=cause.permanent)
        return self._history.conclude(cause, end, Findings(self.name, self._generation, self._state))

    async def _begin(self) -> Cause | None:
        """None: it runs."""
        async with asyncio.timeout(LOOK_S):
            self._files = await self._tools.stamps(Path(self._spec.path))
            self._spec, broken = await self._history.admit()
            if broken is not None:
                return broken
            binary = await self._tools.find_binary()
        port = ports.pick(self.port, self._history.record.port_clashes)
        launch = compose(self._spec, binary, self._tools.environ, port, self._generation, self._log_file)
        on_exit = partial(self.post, None, self._generation)
        self._run = self._tools.launcher.start(launch, self._generation, on_exit)
        self._history.started()
        return None

    async def _watch_load(self, _: Event) -> None:
        self._witness = Witness(self._living().child.pid, self._tools.oom_kills)
        self._job("witness", self._witness.watch(self._tools.clock))
        loaded = partial(watch.until_loaded, self._living(), self._tools, self._startup_stall_s)
        self._job("load", self._reporting(loaded))

    async def _warm_up(self, _: Event) -> None:
        self._job("warm-up", self._reporting(partial(watch.until_warm, self._living(), self._tools)))

    async def _watch(self, _: Event) -> None:
        run = self._living()
        run.ready_at = self._tools.clock.now()
        load_s = run.ready_at - run.spawned_at
        log.info("ready", model=self.name, pid=run.child.pid, port=run.endpoint.port, load_s=round(load_s, 3))
        self._doubt = watch.Doubt()
        polling = partial(watch.while_ready, run, self._tools, self._doubt, self._alive)
        self._job("health", self._reporting(polling))
        self._job("vigil", self._reporting(Vigil(run, self._tools, self._doubt, self._terms()).keep))
        stable = partial(self._tools.clock.sleep, stable_after_s(load_s))
        self._job("stable", self._after(stable, Event.STABLE))

    def _terms(self) -> Terms:
        return Terms(
            name=self.name,
            limit_s=self._silence_s,
            idle_canaries=not may_sleep(self._spec),
            ration=self._hang_kills,
            say=self._suspected,
        )

    def _suspected(self, suspicion: Suspicion, answered: bool) -> None:
        self._suspicion = suspicion
        self._checks += answered
        self._publish()

    def _alive(self) -> None:
        self._checks += 1
        self._publish()

    async def _drain(self, event: Event) -> None:
        self._living().ordered = ORDERED.get(event)
        drained = partial(self._tools.traffic.drained, self.name, self._generation, self._drain_s)
        self._job("drain", self._after(drained, Event.DRAINED))

    async def _kill(self, ladder: tuple[Rung, ...], event: Event) -> None:
        run = self._living()
        run.ordered = ORDERED.get(event, run.ordered)
        self._abort(run)
        self._end_jobs()
        self._hurry.clear()
        self._job("ladder", self._descend(run, ladder))

    async def _descend(self, run: Run, ladder: tuple[Rung, ...]) -> None:
        try:
            ended = await descend(run, ladder, self._tools.clock, self._hurry)
        except OSError:  # it changed its user, and we may not signal it any more
            log.exception("ladder failed", model=self.name)
            ended = False
        if not ended:
            log.error("unkillable", model=self.name, pid=run.child.pid)
            self.post(Event.UNKILLED, run.generation)

    async def _hurry_up(self, _: Event) -> None:
        self._hurry.set()

    async def _arm_delay(self, _: Event) -> None:
        delay_s = self._history.delay_s
        self._next_try_at = self._tools.clock.now() + delay_s
        self._job("delay", self._after(partial(self._tools.clock.sleep, delay_s), Event.DELAY_ELAPSED))

    async def _disarm_delay(self, _: Event) -> None:
        self._next_try_at = None
        self._end_jobs()

    async def _watch_files(self, _: Event) -> None:
        look = partial(self._tools.stamps, Path(self._spec.path))
        changed = partial(filewatch.until_changed, look, self._files, self._tools.clock)
        self._job("files", self._after(changed, Event.FILE_CHANGED))

    # ---- the end of a run

    async def _bury(self) -> Event:
        """Judge an exit: what was it, and what follows?"""
        run = self._living()
        inside = self._abort(run)
        self._end_jobs()
        status, tail = await run.bury(self._tools.clock)
        seen = self._witness
        cause = cause_of(run, status, tail, self._evidence, seen.out_of_memory() if seen is not None else "")
        end = end_of(run, cause, now=self._tools.clock.now(), wanted=self._wanted, inside=inside)
        rss_bytes = seen.rss_bytes if seen is not None else None
        findings = Findings(self.name, run.generation, self._state, run, tuple(tail), rss_bytes, inside)
        follows = self._history.conclude(cause, end, findings)
        self._run = self._witness = None
        return follows

    def _abort(self, run: Run) -> Inside:
        try:
            return self._tools.traffic.abort(self.name, run.generation)
        except Exception:  # the proxy's trouble must not keep a child from being ended or buried
            log.exception("abort failed", model=self.name)
            return NOBODY

    def _living(self) -> Run:
        assert self._run is not None, self  # noqa: S101  the table asks only where there is one
        return self._run

    # ---- jobs

    async def _reporting(self, watching: Callable[[], Awaitable[watch.Report]]) -> None:
        generation, report = self._generation, await watching()
        self._evidence = report.evidence
        self.post(report.event, generation)

    async def _after(self, waited: Callable[[], Awaitable[None]], event: Event) -> None:
        generation = self._generation
        await waited()
        self.post(event, generation)

    def _job(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._jobs.start(name, work, partial(self._job_failed, self._generation))

    def _job_failed(self, generation: Generation, job: str, error: BaseException) -> None:
        if generation == self._generation:
            self._evidence = f"llmsup's own {job} failed: {error!r}"
        self.post(Event.UNREACHABLE, generation)

    def _end_jobs(self) -> None:
        self._suspicion = Suspicion()
        self._jobs.end_all()

    async def close(self) -> None:
        """Last: end the jobs. The child must be gone already."""
        self._end_jobs()
        if self._log_file is not None:
            await asyncio.to_thread(self._log_file.close)
        while not self._mailbox.empty():  # nobody may wait for ever
            if (done := self._mailbox.get_nowait().done) is not None and not done.done():
                done.set_result(None)
