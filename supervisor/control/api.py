"""The control API as an ASGI application: the table of operations, answered in JSON, errors too."""

import inspect
import json
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from supervisor.control import openapi, parameters
from supervisor.control.daemon import Daemon
from supervisor.control.operations import OPERATIONS, Arguments, Operation
from supervisor.control.streams import EventStream, Streams
from supervisor.control.tail import Follower, last_lines
from supervisor.errors import ConfigError, LlmsupError

log: structlog.stdlib.BoundLogger = structlog.get_logger("control")

# What it says is of the moment and for who has asked, and a browser is not to take it for anything but what it is.
NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Api:
    """``daemon`` is asked; ``streams`` are what is followed."""

    def __init__(self, daemon: Daemon, streams: Streams) -> None:
        self._daemon = daemon
        self._streams = streams
        own: dict[str, Callable[[Request, Arguments], Awaitable[Response]]] = {
            "/events": self._events,
            "/logs": self._logs,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
        }
        routes = [
            Route(
                operation.path,
                partial(self._answer, operation, own.get(operation.path)),
                methods=[operation.method],
            )
            for operation in OPERATIONS
        ]
        self.app = Starlette(
            routes=routes,
            exception_handlers={
                LlmsupError: _refused,
                HTTPException: _no_route,
                Exception: _failed,
            },
        )
        self.app.router.redirect_slashes = False  # a path that is not there is not there

    async def _answer(
        self,
        operation: Operation,
        own: Callable[[Request, Arguments], Awaitable[Response]] | None,
        request: Request,
    ) -> Response:
        arguments = parameters.read(operation.parameters, request.query_params.multi_items())
        if own is not None:
            return await own(request, arguments)
        assert operation.answer is not None  # noqa: S101  a test looks at every one
        document = operation.answer(self._daemon, arguments)
        if inspect.isawaitable(document):
            document = await document
        if isinstance(document, bytes):
            return Response(document, media_type="application/json", headers=NO_STORE)
        return JSONResponse(document, headers=NO_STORE)

    # ---- what needs more than the daemon's word

    async def _events(self, request: Request, arguments: Arguments) -> Response:
        events = self._streams.events
        if not _followed(request, arguments):
            newest = [event.as_dict() for event in events.last(arguments["n"])]
            return JSONResponse({"events": newest}, headers=NO_STORE)
        self._streams.check_room()
        seen = request.headers.get("last-event-id")
        number = events.number_of(seen) if seen is not None else max(0, events.newest - arguments["n"])
        source = self._streams.of_events(number, snapshots=arguments["snapshots"])
        return EventStream(self._streams, source)

    async def _logs(self, request: Request, arguments: Arguments) -> Response:
        path = self._log_path(arguments)
        followed = _followed(request, arguments)
        if followed:
            self._streams.check_room()
        try:
            follower, lines = await self._streams.readers.run(
                lambda: (Follower(path) if followed else None, last_lines(path, arguments["n"]))
            )
        except OSError as exc:
            raise LlmsupError(f"{path} cannot be read: {exc.strerror}") from exc
        if follower is None:
            return JSONResponse({"path": str(path), "lines": lines}, headers=NO_STORE)
        return EventStream(self._streams, self._streams.of_log(path, lines, follower))

    def _log_path(self, arguments: Arguments) -> Path:
        if arguments["of"] == "model":
            return self._daemon.log_path(arguments["model"])
        return self._daemon.own_log_path(errors=arguments["of"] == "errors")

    async def _metrics(self, request: Request, _: Arguments) -> Response:
        text, kind = await self._daemon.metrics(request.headers.get("accept", ""))
        return Response(text, headers=NO_STORE | {"content-type": kind})

    async def _openapi(self, _: Request, __: Arguments) -> Response:
        return Response(self._openapi_document, media_type="application/json", headers=NO_STORE)

    @cached_property
    def _openapi_document(self) -> bytes:
        return json.dumps(openapi.document()).encode()


def _followed(request: Request, arguments: Arguments) -> bool:
    """Asked for by name, or by a browser's EventSource."""
    return bool(arguments["follow"]) or "text/event-stream" in request.headers.get("accept", "")


def _body(message: str, code: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "exit_code": exit_code}}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, LlmsupError)  # noqa: S101  it is registered for these
    status = HTTPStatus.UNPROCESSABLE_ENTITY if isinstance(error, ConfigError) else error.status
    return JSONResponse(_body(str(error), error.code, error.exit_code), status_code=status, headers=NO_STORE)


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405: what this interface has no word for."""
    assert isinstance(error, HTTPException)  # noqa: S101  it is registered for these
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message, code = f"{path} does not take {request.method}", "method_not_allowed"
    else:
        message, code = f"there is no {path} here", "not_found"
    headers = NO_STORE | dict(error.headers or {})
    return JSONResponse(
        _body(message, code, parameters.USAGE), status_code=error.status_code, headers=headers
    )


async def _failed(request: Request, error: Exception) -> Response:
    """A defect of ours: its traceback is in the log (uvicorn says it), its name in the answer."""
    return JSONResponse(
        _body(f"llmsup failed: {type(error).__name__}", LlmsupError.code, LlmsupError.exit_code),
        status_code=500,
        headers=NO_STORE,
    )
