"""One model's child over all its generations. Its own task is the only writer of its state.

Everybody else sends events to the mailbox and reads the frozen `InstanceView` published after each
change. An event that belongs to a generation carries its number, and is dropped when that is past.
What to do is decided in `state` (the table), `backoff` (after an exit) and `causes`; what is awaited
for long (probes, draining, the kill ladder) runs as a job of its own and reports back by an event.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from supervisor.errors import LlmsupError
from supervisor.events import Death, Endpoint, InstanceView
from supervisor.proc import command, ports, watch
from supervisor.proc.autopsy import BY_WISH, ORDERED, cause_of, death, end_of
from supervisor.proc.backoff import End, Record, judge, stable_after_s
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.output import LogFile
from supervisor.proc.run import Launch, Run, new_key
from supervisor.proc.spawn import SpawnFailed
from supervisor.proc.state import Action, Event, State, step
from supervisor.proc.stop import FAST_LADDER, LADDER, Rung, descend
from supervisor.proc.tools import Executable, Tools
from supervisor.types import Generation, ModelName

__all__ = ["Instance", "Tools"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("instance")

LOOK_S = 30.0  # for the model file and the binary; a file server that hangs must not hold up a stop
TRY_AGAIN_S = 1.0  # after an obstacle that says nothing about the child


@dataclass(frozen=True, slots=True)
class _Message:
    event: Event | None  # None: the run has exited, still to be judged
    generation: Generation | None
    done: asyncio.Future[None] | None = None


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
        log_file: LogFile | None = None,
    ) -> None:
        self.name = ModelName(spec.name)
        self._spec = spec
        self._tools = tools
        self._publish_view = publish
        self._startup_stall_s = startup_stall_s
        self._drain_s = drain_s
        self._log_file = log_file
        self._port = port
        self._mailbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._state = State.STOPPED
        self._since = tools.clock.now()
        self._wanted = False
        self._generation = Generation(0)
        self._restarts = 0
        self._record = Record()
        self._delay_s = 0.0
        self._next_try_at: float | None = None
        self._last_death: Death | None = None
        self._evidence = ""  # what a job saw before it asked for the end of a run
        self._run: Run | None = None
        self._checks = 0
        self._hurry = asyncio.Event()
        self._poke = asyncio.Event()
        self._jobs: dict[str, asyncio.Task[None]] = {}
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
            Action.HURRY: self._hurry_up,
            Action.ARM_DELAY: self._arm_delay,
            Action.DISARM_DELAY: self._disarm_delay,
        }

    def __repr__(self) -> str:
        return f"<Instance {self.name} {self._state} generation {self._generation}>"

    # ---- from outside: messages in, views out

    def post(self, event: Event | None, generation: Generation | None = None) -> None:
        """Send and forget. ``None`` is a raw exit."""
        self._mailbox.put_nowait(_Message(event, generation))

    async def command(self, event: Event) -> None:
        """Send an operator's wish; returns when it has been taken up (not: carried out)."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mailbox.put_nowait(_Message(event, None, done))
        await done

    def poke(self, generation: Generation) -> None:
        """Somebody could not reach that generation: look at once instead of at the next poll."""
        if generation == self._generation:
            self._poke.set()

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
            restarts=self._restarts,
            since=self._since,
            spawned_at=run.spawned_at if run is not None else None,
            next_try_at=self._next_try_at,
            wanted=self._wanted,
            last_death=self._last_death,
            checks=self._checks,
        )

    def tail(self, lines: int) -> list[str]:
        """The newest output lines of the current generation."""
        return self._run.output.tail(lines) if self._run is not None else []

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
            run.ordered = run.ordered or "internal_error"
            await self._kill(FAST_LADDER, Event.DRAINED)
            if run.exited.is_set():
                self.post(None, run.generation)
        elif not self._wanted:
            self._state = State.STOPPED
        elif self._state is not State.FAILED:
            self._state, self._delay_s = State.BACKOFF, TRY_AGAIN_S
            await self._disarm_delay(Event.GONE_BACKOFF)
            await self._arm_delay(Event.GONE_BACKOFF)

    async def _take(self, message: _Message) -> None:
        if message.generation is not None and message.generation != self._generation:
            return
        if message.event is not None:
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

    async def _forgive(self, _: Event) -> None:
        self._record = Record()

    async def _spawn(self, _: Event) -> Event:
        """Start the next generation; what stands in the way of it is an end like any other."""
        if self._generation > 0 and self._record.port_clashes == 0:
            self._restarts += 1
        self._generation = Generation(self._generation + 1)
        self._evidence = ""
        self._publish()  # STARTING is seen while the file and the binary are looked at
        try:
            cause = await self._begin()
        except SpawnFailed as exc:
            name = "spawn_failed" if exc.transient else "not_executable"
            cause = Cause(name, str(exc), permanent=not exc.transient)
        except LlmsupError as exc:
            cause = Cause("cannot_start", str(exc), permanent=True)
        except OSError as exc:  # out of descriptors or memory; a look that took too long
            cause = Cause("spawn_failed", f"not possible just now: {exc!r}")
        except Exception as exc:
            log.exception("spawn failed", model=self.name)
            cause = Cause("internal_error", repr(exc))
        return self._unborn(cause) if cause is not None else Event.SPAWNED

    async def _begin(self) -> Cause | None:
        """None: it runs."""
        async with asyncio.timeout(LOOK_S):
            broken = await self._tools.check_model(Path(self._spec.path))
            if broken is not None:
                return broken
            binary = await self._tools.find_binary()
        on_exit = partial(self.post, None, self._generation)
        self._run = self._tools.launcher.start(self._compose(binary), self._generation, on_exit)
        return None

    def _unborn(self, cause: Cause) -> Event:
        self._note(cause, None)
        if cause.name == "spawn_failed":  # the machine's fault: nothing is held against the child
            self._delay_s = TRY_AGAIN_S
            return Event.GONE_BACKOFF
        return self._judge(End(wished=not self._wanted, permanent=cause.permanent))

    def _compose(self, binary: Executable) -> Launch:
        endpoint = Endpoint(ports.LOOPBACK, ports.pick(self._port, self._record.port_clashes), new_key())
        argv = command.argv(self._spec, binary, str(binary.path), host=endpoint.host, port=endpoint.port)
        marker = f"{os.getpid()}:{self.name}:{self._generation}"
        env = command.environment(self._spec, self._tools.environ, api_key=endpoint.api_key, marker=marker)
        return Launch(argv, env, endpoint, self._log_file)

    async def _watch_load(self, _: Event) -> None:
        loaded = partial(watch.until_loaded, self._living(), self._tools, self._startup_stall_s)
        self._job("load", self._reporting(loaded))

    async def _warm_up(self, _: Event) -> None:
        self._job("warm-up", self._reporting(partial(watch.until_warm, self._living(), self._tools)))

    async def _watch(self, _: Event) -> None:
        run = self._living()
        run.ready_at = self._tools.clock.now()
        load_s = run.ready_at - run.spawned_at
        log.info("ready", model=self.name, pid=run.child.pid, port=run.endpoint.port, load_s=round(load_s, 3))
        polling = partial(watch.while_ready, run, self._tools, self._poke, self._alive)
        self._job("health", self._reporting(polling))
        self._job("stable", self._after(stable_after_s(load_s), Event.STABLE))

    def _alive(self) -> None:
        self._checks += 1
        self._publish()

    async def _drain(self, event: Event) -> None:
        self._living().ordered = ORDERED.get(event)
        self._job("drain", self._drained())

    async def _drained(self) -> None:
        generation = self._generation
        await self._tools.traffic.drained(self.name, self._drain_s)
        self.post(Event.DRAINED, generation)

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
        self._next_try_at = self._tools.clock.now() + self._delay_s
        self._job("delay", self._after(self._delay_s, Event.DELAY_ELAPSED))

    async def _disarm_delay(self, _: Event) -> None:
        self._next_try_at = None
        self._end_jobs()

    # ---- the end of a run

    async def _bury(self) -> Event:
        """Judge an exit: what was it, and what follows?"""
        run = self._living()
        self._abort(run)
        self._end_jobs()
        status, tail = await run.bury(self._tools.clock)
        cause = cause_of(run, status, tail, self._evidence)
        end = end_of(run, cause, now=self._tools.clock.now(), wanted=self._wanted)
        self._note(cause, run)
        self._run = None
        return self._judge(end)

    def _judge(self, end: End) -> Event:
        judgement = judge(end, self._record, self._tools.chance())
        self._record, self._delay_s = judgement.record, judgement.delay_s
        return judgement.event

    def _abort(self, run: Run) -> None:
        try:
            self._tools.traffic.abort(self.name, run.generation)
        except Exception:  # the proxy's trouble must not keep a child from being ended or buried
            log.exception("abort failed", model=self.name)

    def _note(self, cause: Cause, run: Run | None) -> None:
        clock = self._tools.clock
        self._last_death = death(run, cause, self._generation, at=clock.wall(), now=clock.now())
        say = log.info if cause.name in BY_WISH else log.warning
        say("ended", model=self.name, generation=self._generation, cause=cause.name, detail=cause.detail)

    def _living(self) -> Run:
        assert self._run is not None, self  # noqa: S101  the table asks only where there is one
        return self._run

    # ---- jobs

    async def _reporting(self, watching: Callable[[], Awaitable[watch.Report]]) -> None:
        generation = self._generation
        report = await watching()
        self._evidence = report.evidence
        self.post(report.event, generation)

    async def _after(self, seconds: float, event: Event) -> None:
        generation = self._generation
        await self._tools.clock.sleep(seconds)
        self.post(event, generation)

    def _job(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        old = self._jobs.pop(name, None)
        if old is not None:
            old.cancel()
        task = asyncio.create_task(work, name=f"{self.name}.{name}")
        self._jobs[name] = task
        task.add_done_callback(partial(self._job_done, self._generation))

    def _job_done(self, generation: Generation, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job failed", model=self.name, job=task.get_name(), exc_info=error)
            if generation == self._generation:
                self._evidence = f"llmsup's own {task.get_name()} failed: {error!r}"
            self.post(Event.UNREACHABLE, generation)

    def _end_jobs(self) -> None:
        for task in self._jobs.values():
            task.cancel()
        self._jobs.clear()

    async def close(self) -> None:
        """Last: end the jobs. The child must be gone already."""
        self._end_jobs()
        if self._log_file is not None:
            await asyncio.to_thread(self._log_file.close)
