"""The control API's socket: starlette on uvicorn, on a UNIX socket only this user can reach.

Answers come from snapshots, so `status` answers whatever else is stuck.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

from supervisor.clock import Clock
from supervisor.control.api import Api
from supervisor.control.daemon import Daemon
from supervisor.control.peers import OwnersOnly
from supervisor.control.rundir import RunDir
from supervisor.control.streams import TRANSPORT, Streams
from supervisor.errors import LlmsupError
from supervisor.unixsocket import bind

log: structlog.stdlib.BoundLogger = structlog.get_logger("control")

CHECK_S = 5.0
SOCKET_MODE, BACKLOG = 0o600, 32


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


class _Connection(OwnersOnly):
    """Lets a stream close the connection of a reader that does not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own does so
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope[TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class ControlServer:
    """``streams``: what can be followed; they end when the server does."""

    def __init__(self, daemon: Daemon, run_dir: RunDir, streams: Streams) -> None:
        self._run_dir = run_dir
        self._streams = streams
        self._path = run_dir.socket_path
        self._task: asyncio.Task[None] | None = None
        self._inode: int | None = None
        self._closed = False
        self._config = uvicorn.Config(
            Api(daemon, streams).app,
            http=_Connection,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
        )
        self._server = _Server(self._config)

    async def open(self) -> None:
        """Listen; returns when it can be connected to."""
        listening = bind(self._path, mode=SOCKET_MODE, backlog=BACKLOG)
        self._inode = self._path.stat().st_ino
        self._server = _Server(self._config)
        self._streams.begin()
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="control")

    def end_streams(self) -> None:
        """Whoever only looks on must not keep the daemon from its end."""
        self._streams.close()

    async def close(self) -> None:
        self._closed = True
        await self._end()
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _end(self) -> None:
        self.end_streams()
        self._server.should_exit = True
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(2.0):
                    await self._task

    async def keep(self, clock: Clock) -> None:
        """For ever: put the socket back when it was deleted, as cleaners of temporary files do (FAULTS 56)."""
        while True:
            await clock.sleep(CHECK_S)
            try:
                if self._closed or self._in_place():
                    continue
                log.warning("control socket was gone; made again", path=str(self._path))
                await self._end()
                self._run_dir.restore()
                await self.open()
            except (OSError, LlmsupError) as exc:
                log.error("control socket cannot be made", error=str(exc))

    def _in_place(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False
