"""The control API: starlette on uvicorn, on a UNIX socket only this user can reach.

Answers come from snapshots, so `status` answers whatever else is stuck.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from supervisor.clock import Clock
from supervisor.control.rundir import RunDir
from supervisor.errors import LlmsupError, PermissionDenied

log: structlog.stdlib.BoundLogger = structlog.get_logger("control")

CHECK_S = 5.0


class Daemon(Protocol):
    """What can be asked of it."""

    def status(self) -> dict[str, object]: ...
    async def deaths(self) -> bytes: ...
    def requests(self) -> list[dict[str, object]]: ...
    def cancel(self, request_id: str) -> int: ...
    def request_stop(self, *, now: bool) -> None: ...
    async def restart(self, name: str | None) -> str: ...
    async def reload(self) -> dict[str, object]: ...
    async def reload_keys(self) -> dict[str, object]: ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


class ControlServer:
    def __init__(self, daemon: Daemon, run_dir: RunDir) -> None:
        self._daemon = daemon
        self._run_dir = run_dir
        self._path = run_dir.socket_path
        self._task: asyncio.Task[None] | None = None
        self._inode: int | None = None
        self._closed = False
        routes = [
            Route("/status", self._status),
            Route("/deaths", self._deaths),
            Route("/requests", self._requests),
            Route("/cancel", self._cancel, methods=["POST"]),
            Route("/stop", self._stop, methods=["POST"]),
            Route("/restart", self._restart, methods=["POST"]),
            Route("/reload", self._reload, methods=["POST"]),
            Route("/keys/reload", self._reload_keys, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={LlmsupError: self._failed})
        self._config = uvicorn.Config(
            app, http="h11", lifespan="off", log_config=None, access_log=False, ws="none"
        )
        self._server = _Server(self._config)

    async def open(self) -> None:
        """Listen; returns when it can be connected to."""
        listening = bind(self._path)
        self._inode = self._path.stat().st_ino
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="control")

    async def close(self) -> None:
        self._closed = True
        await self._end()
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _end(self) -> None:
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

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self._daemon.status())

    async def _deaths(self, _: Request) -> Response:
        return Response(await self._daemon.deaths(), media_type="application/json")

    async def _requests(self, _: Request) -> Response:
        return JSONResponse({"requests": self._daemon.requests()})

    async def _cancel(self, request: Request) -> Response:
        return JSONResponse({"cancelled": self._daemon.cancel(request.query_params.get("id", ""))})

    async def _stop(self, request: Request) -> Response:
        self._daemon.request_stop(now=request.query_params.get("now") == "1")
        return JSONResponse({"stopping": True})

    async def _restart(self, request: Request) -> Response:
        name = await self._daemon.restart(request.query_params.get("model"))
        return JSONResponse({"restarting": name})

    async def _reload(self, _: Request) -> Response:
        return JSONResponse(await self._daemon.reload())

    async def _reload_keys(self, _: Request) -> Response:
        return JSONResponse(await self._daemon.reload_keys())

    @staticmethod
    async def _failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, LlmsupError)  # noqa: S101  it is registered for these
        body = {"error": {"message": str(error), "code": error.code, "exit_code": error.exit_code}}
        return JSONResponse(body, status_code=error.status)


def bind(path: Path) -> socket.socket:
    """A listening UNIX socket, put in place by a rename: there is no moment without one, and none with
    wider permissions.

    Raises:
        PermissionDenied: it cannot be made there.
    """
    fresh = path.with_name(f".{os.getpid():x}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        sock.listen(32)
        os.replace(fresh, path)
    except OSError as exc:
        sock.close()
        raise PermissionDenied(f"{path}: {exc.strerror}") from exc
    finally:
        os.umask(mask)
    return sock
