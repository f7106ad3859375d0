"""The daemon's life: from opening the port to closing it. What it is made of is wired in `parts`."""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from supervisor import __version__
from supervisor.accounts import Accounts
from supervisor.appliers import appliers
from supervisor.clock import SystemClock
from supervisor.control.chronicle import Chronicle
from supervisor.control.eventlog import EventLog
from supervisor.control.figures import Figures
from supervisor.control.rundir import RunDir
from supervisor.control.server import ControlServer
from supervisor.control.streams import Streams
from supervisor.desk import Around, Desk
from supervisor.handshakes import TlsServer
from supervisor.heap import give_back_what_is_freed
from supervisor.listen import Listener, UnixListener, handed_over
from supervisor.observe import logging as observe_logging
from supervisor.observe.systemd import Notifier, keep_alive
from supervisor.parts import Parts
from supervisor.proc import orphans
from supervisor.proc.children import Children
from supervisor.proc.confine import forbid_core_dumps
from supervisor.proc.run import Launcher
from supervisor.proc.state import Event
from supervisor.proxy.wire import ClientConnection
from supervisor.reload import Reloader, certificates
from supervisor.roster import Roster
from supervisor.settings.load import Loaded
from supervisor.settings.notices import UNSAFE, notices
from supervisor.tls import ServerTls, tls_of
from supervisor.types import ModelName
from supervisor.watchconfig import ConfigWatch

log: structlog.stdlib.BoundLogger = structlog.get_logger("daemon")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SWEEP_S = 1.0
SWEEP_LATE_S = 5.0
JOB_PAUSE_S = 1.0  # after an error of our own
# Requests leave no cycles behind; with hundreds of connections the default (700) walks them all for nothing.
GC_THRESHOLDS = (20_000, 20, 50)
FLUSH_S = 1.0  # for the last bytes to clients, after the last answer


class Daemon:
    """The one process: proxy, children, control. Built by `run`, lives as long as its `serve`."""

    def __init__(
        self,
        loaded: Loaded,
        run_dir: RunDir,
        listener: Listener,
        unix: UnixListener,
        logs: observe_logging.DaemonLogs,
        children: Children,
        notifier: Notifier,
        tls: ServerTls | None,
    ) -> None:
        self._loaded = loaded
        self._tls = tls
        self._logs = logs
        self._listener = listener
        self._unix = unix
        self._children = children
        self._notifier = notifier
        self._parts = parts = Parts(loaded.settings, children)
        self._clock = parts.clock
        self._chronicle = Chronicle(EventLog(secrets.token_hex(4)), self._clock)
        self._accounts = Accounts(parts.pipeline, logs.access.put, loaded.settings, os.environ)
        parts.telemetry.logs = lambda: [file.view() for file in [*logs.all, *parts.model_logs.values()]]
        own = [*self._accounts.appliers(), *([certificates(tls)] if tls is not None else [])]
        self._roster = Roster(parts)
        self._reloader = Reloader(
            loaded,
            os.environ,
            notifier=notifier,
            appliers=[*own, *appliers(parts), self._roster.applier()],
            clock=self._clock,
            on_reload=self._chronicle.reloaded,
            on_refusal=self._chronicle.config_refused,
        )
        parts.fleet.when_gone(self._chronicle.forget)
        self._fleet, self._pipeline, self._admission = parts.fleet, parts.pipeline, parts.admission
        self._swept_at = self._clock.now()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._desk = desk = Desk(
            parts,
            Around(
                loaded=loaded,
                listener=listener,
                unix=unix,
                logs=logs,
                reloader=self._reloader,
                chronicle=self._chronicle,
                tls=tls is not None,
                stopping=self._stop.is_set,
                stop=lambda now: self.request_stop(now=now),
            ),
        )
        self._control = ControlServer(desk, run_dir, Streams(self._chronicle.log, desk.look, self._clock))

    # ---- life

    async def serve(self, ready: Callable[[str], None]) -> None:
        """From opening the port to closing it. ``ready`` is told once how the default model's start went."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.hang_up)
        server = await self._listener.open(
            loop,
            lambda: ClientConnection(self._pipeline),
            None if self._tls is None else self._tls.context,
        )
        await self._unix.open(lambda: ClientConnection(self._pipeline))
        await self._control.open()
        self._notifier.ready()
        log.info(
            "listening",
            address=str(self._listener),
            unix=self._unix.address,
            tls=self._tls is not None,
            pid=os.getpid(),
            version=__version__,
            loop=type(loop).__name__,
        )
        for notice in notices(self._loaded):
            say = log.warning if notice.key == UNSAFE else log.info
            say("configuration", key=notice.key, note=notice.message)
        self._fleet.open()
        self._fleet.subscribe(self._tell)
        self._fleet.when_gone(self._tell)
        self._chronicle.begin(self._fleet.views)
        self._parts.limits.tell = self._chronicle.rate_limited
        self._parts.admission.tell_ban = self._chronicle.client_banned
        self._fleet.subscribe(self._chronicle.on_view)
        jobs = self._jobs(ready)
        gc.collect()
        gc.freeze()  # what exists now lives as long as the daemon: collections need not look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        await self._stop.wait()
        await self._shut_down(server)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for number in (*SIGNALS, signal.SIGHUP):  # all is done: one more must not make it look like a failure
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _jobs(self, ready: Callable[[str], None]) -> list[asyncio.Task[None]]:
        """What goes on for as long as the daemon lives."""
        proofs = {"sweep": self._sweeps, "instances": self._fleet.is_served}
        jobs = [
            self._job("watchdog", partial(keep_alive, self._notifier, self._clock, proofs)),
            self._job("sweep", self._sweep),
            self._job("announce", partial(self._announce, ready)),
            self._job("start", self._fleet.start_all),
            self._job("control", partial(self._control.keep, self._clock)),
            self._job("unix", partial(self._unix.keep, self._clock)),
            self._job("deaths", partial(self._parts.deaths.keep, self._clock)),
            self._job("keys", partial(self._parts.keyring.keep, self._clock)),
            self._job("memory", self._parts.memory.keep),
            *([self._job("limits", limits.keep)] if (limits := self._parts.limits.store) is not None else []),
            self._job("residents", self._parts.residents.keep),
            self._job("orphans", partial(self._children.keep, self._clock)),
            self._job("history", self._desk.history_of.keep),
            self._job("figures", Figures(self._desk.status, self._logs.metrics, self._clock).keep),
        ]
        if self._loaded.settings.reload.watch:
            watch = ConfigWatch(
                self._loaded.path,
                partial(self._reloader.reload, saved=True),
                self._clock,
                catch_up=self._reloader.catch_up,
            )
            jobs.append(self._job("config", watch.keep))
        return jobs

    async def _shut_down(self, server: asyncio.Server | TlsServer) -> None:
        """Top to bottom: refuse, drain, end the children, let clients read the rest, close. (FAULTS 26)"""
        log.info("stopping", in_flight=len(self._parts.in_flight.rows))
        self._notifier.stopping()
        self._admission.drain()
        now = self._hurry.is_set()
        self._hurry.clear()
        stopping = asyncio.create_task(self._fleet.stop_all(now=now), name="stop")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        while not stopping.done():  # asked to hurry: every further wish jumps one more rung
            self._hurry.clear()
            await self._fleet.send_all(Event.STOP_NOW)
            hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
            await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        await stopping
        server.close()
        self._unix.close()
        self._control.end_streams()
        self._pipeline.shut()
        deadline = self._clock.now() + FLUSH_S
        while self._pipeline.connections and self._clock.now() < deadline:
            await self._clock.sleep(0.01)
        await self._control.close()
        if self._parts.limits.store is not None:
            await self._parts.limits.store.close()
        await self._roster.close()
        await self._fleet.close()
        await self._parts.deaths.close()
        await self._parts.prober.aclose()
        await self._accounts.close()
        log.info("stopped")

    def _on_signal(self, number: int) -> None:
        log.info("signal", name=signal.Signals(number).name)
        self.request_stop(now=self._stop.is_set())

    def _job(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._guard(name, work), name=name)

    async def _guard(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """An error of our own in one job stays with it: said with its traceback, then the job again. (FAULTS 28)"""
        while True:
            try:
                await work()
            except Exception:
                log.exception("job failed; going on", job=name)
                await self._clock.sleep(JOB_PAUSE_S)
            else:
                return

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            try:
                self._pipeline.sweep(self._clock.now())
                self._swept_at = self._clock.now()
            except Exception:  # the next one may well succeed, and without any there are no deadlines
                log.exception("sweep failed")

    def _sweeps(self) -> bool:
        return self._clock.now() - self._swept_at < SWEEP_LATE_S

    def _tell(self, _: object) -> None:
        self._notifier.status(", ".join(f"{name} {view.state}" for name, view in self._fleet.views.items()))

    async def _announce(self, ready: Callable[[str], None]) -> None:
        """Tell whoever started us how the default model's first start ended: "" for READY, else why not."""
        name = ModelName(self._loaded.settings.default_model)
        lineup = self._fleet.lineups.get(name)
        if lineup is None or not lineup.terms.preload:
            ready("")  # its first request will load it, or it has been removed already
            return
        settled = {"READY", "FAILED", "CRASHLOOP"}
        await self._fleet.wait_for(
            lambda _: lineup.removed or lineup.view().state in settled or lineup.view().last_death is not None
        )
        if (
            not lineup.removed and lineup.view().state not in settled
        ):  # it died once; whether it comes back is worth a moment
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10.0):
                    await self._fleet.wait_for(lambda _: lineup.removed or lineup.view().state in settled)
        view = lineup.view()
        ready("" if view.ready else view.why())

    def request_stop(self, *, now: bool) -> None:
        if now:
            self._hurry.set()
        self._stop.set()


def run(loaded: Loaded, *, ready: Callable[[str], None] = lambda _: None, background: bool = False) -> None:
    """Be the daemon until told to stop. ``background``: it says what it does in its log files only.

    Raises:
        Conflict: another daemon has this state folder, or somebody has the port.
        PermissionDenied: the state folder or the port may not be used.
    """
    settings = loaded.settings
    give_back_what_is_freed()
    # Until `serve` listens to it: what it asks for has just been done.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    notifier = Notifier.taken_from(os.environ)
    run_dir = RunDir(settings.state_dir)
    run_dir.create()
    with run_dir.locked(), contextlib.closing(observe_logging.DaemonLogs(settings.log_dir)) as logs:
        observe_logging.configure(
            level=settings.log.level, style=settings.log.format, files=logs, background=background
        )
        tls = tls_of(settings)
        socket = handed_over(os.environ, settings.listen_host, settings.listen_port)
        with (
            contextlib.closing(Listener(settings.listen_host, settings.listen_port, socket)) as listener,
            contextlib.closing(UnixListener(settings.listen_unix)) as unix,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            children = Children(run_dir.path, Launcher(SystemClock()))
            children.sweep()
            orphans.adopt()
            forbid_core_dumps()

            async def main() -> None:
                await Daemon(loaded, run_dir, listener, unix, logs, children, notifier, tls).serve(ready)

            runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it imports; None is asyncio's own."""
    if os.environ.get("LLMSUP_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
