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

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from supervisor.errors import LlmsupError, PermissionDenied

SUN_PATH_MAX = 103  # macOS allows 104 with the final NUL, Linux 108


class Daemon(Protocol):
    """What can be asked of it."""

    def status(self) -> dict[str, object]: ...
    def request_stop(self, *, now: bool) -> None: ...
    async def restart(self, name: str | None) -> str: ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


class ControlServer:
    def __init__(self, daemon: Daemon, socket_path: Path) -> None:
        self._daemon = daemon
        self._path = socket_path
        self._task: asyncio.Task[None] | None = None
        routes = [
            Route("/status", self._status),
            Route("/stop", self._stop, methods=["POST"]),
            Route("/restart", self._restart, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={LlmsupError: self._failed})
        config = uvicorn.Config(app, http="h11", lifespan="off", log_config=None, access_log=False, ws="none")
        self._server = _Server(config)

    async def open(self) -> None:
        """Listen; returns when it can be connected to."""
        listening = bind(self._path)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="control")

    async def close(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(2.0):
                    await self._task
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self._daemon.status())

    async def _stop(self, request: Request) -> Response:
        self._daemon.request_stop(now=request.query_params.get("now") == "1")
        return JSONResponse({"stopping": True})

    async def _restart(self, request: Request) -> Response:
        name = await self._daemon.restart(request.query_params.get("model"))
        return JSONResponse({"restarting": name})

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
    if len(os.fsencode(path)) > SUN_PATH_MAX:
        raise PermissionDenied(
            f"{path} is too long for a socket ({SUN_PATH_MAX} bytes at most)",
            hint="choose a shorter state_dir",
        )
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
