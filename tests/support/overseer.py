"""A daemon to be looked at by its operator, made of plain values, and its control API as an ASGI application."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supervisor.control.api import Api
from supervisor.control.eventlog import EventLog
from supervisor.control.streams import Streams
from supervisor.errors import Conflict, ModelUnavailable, NotFound
from tests.support.clock import FakeClock

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STATUS: dict[str, Any] = {
    "version": "1",
    "pid": 1,
    "uptime_s": 1.0,
    "listen": "127.0.0.1:1",
    "url": "http://127.0.0.1:1",
    "config": "/c.yaml",
    "config_error": None,
    "config_pending": [],
    "stopping": False,
    "memory": {"daemon_rss_bytes": 1, "children_rss_bytes": 2, "limit_bytes": 3, "warning": None},
    "requests": {"in_flight": 1, "queued": 0, "total": 3, "failed": 0, "continued": 0},
    "logs": {"dir": "/logs", "error": None, "dropped": 0},
    "deaths": {"error": None},
    "keys": {"count": 0, "error": None},
    "limits": {"store": None},
    "bans": [],
    "models": [
        {
            "name": "demo",
            "state": "READY",
            "pid": 2,
            "port": 3,
            "generation": 1,
            "restarts": 0,
            "uptime_s": 1.0,
            "rss_bytes": 4,
            "slots": {"total": 4, "busy": 1},
            "next_try_s": None,
            "last_death": None,
        }
    ],
}
ROW = {
    "id": "r-1",
    "number": 1,
    "client": "anonymous",
    "method": "POST",
    "path": "/v1/chat/completions",
    "model": "demo",
    "phase": "answering",
    "age_s": 0.5,
    "queue_ms": 0,
    "retries": 0,
    "streamed": True,
    "continued": 0,
}


class PaperDaemon:
    """`control.daemon.Daemon`, of one model; ``asked`` is what it was told to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, object]] = []
        self.stopping = False
        self.defect = False

    def status(self) -> dict[str, object]:
        if self.defect:
            raise RuntimeError("a defect")
        return STATUS

    async def deaths(self) -> bytes:
        return b'{"schema": 1, "deaths": []}'

    def requests(self) -> list[dict[str, object]]:
        return [dict(ROW)]

    def clients(self) -> list[dict[str, Any]]:
        return [{"client": "anonymous", "pool": "anonymous", "in_flight": 1, "queued": 0}]

    def models(self) -> list[dict[str, Any]]:
        row = {"name": "demo", "state": "READY", "path": "/m.gguf", "context_size": 1, "slots": 4}
        residence = {"aliases": [], "preload": True, "ttl_s": None, "standby": False, "last_unload": None}
        return [row | {"default": True} | residence]

    def config(self) -> dict[str, Any]:
        setting = {"key": "listen", "value": "x", "source": "default", "pending": False}
        return {"path": "/c.yaml", "settings": [setting]}

    def history(self) -> dict[str, Any]:
        series = {"rss_bytes": [1], "slots_busy": [0], "state": ["READY"]}
        columns = {"at": [1.0], "in_flight": [0], "queued": [0], "daemon_rss_bytes": [1]}
        return {"period_s": 5.0, "models": {"demo": series}} | columns

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"# TYPE up gauge\nup 1.0\n", "text/plain; version=0.0.4; charset=utf-8"

    def log_path(self, model: str | None) -> Path:
        return self.folder / f"{self._named(model or 'demo')}.log"

    def own_log_path(self, *, errors: bool) -> Path:
        return self.folder / ("errors.log" if errors else "own.log")

    def cancel(self, request_id: str, number: int | None = None) -> int:
        if number == 2:
            raise Conflict("two requests have that id")
        if request_id != ROW["id"]:
            raise NotFound(f"no request {request_id!r} is in flight")
        self.asked.append(("cancel", request_id))
        return 1

    def request_stop(self, *, now: bool) -> None:
        self.asked.append(("stop", now))

    async def restart(self, name: str | None) -> str:
        return self._do("restart", name or "demo")

    async def load(self, name: str) -> str:
        return self._do("load", name)

    async def unload(self, name: str) -> str:
        return self._do("unload", name)

    async def reload(self, *, dry_run: bool) -> dict[str, object]:
        self._do("reload", "demo")
        change = {"key": "listen", "old": "x", "new": "y", "effect": "next start"}
        outcome = {"config": "/c.yaml", "applied": [], "at_next_start": ["listen"]}
        return outcome | {"changes": [change], "last": None}

    async def reload_keys(self) -> dict[str, object]:
        return {"keys": 0, "refused": None}

    def _do(self, verb: str, name: str) -> str:
        if self.stopping:
            raise ModelUnavailable("llmsup is shutting down")
        self.asked.append((verb, self._named(name)))
        return name

    def _named(self, name: str) -> str:
        if name != "demo":
            raise NotFound(f"there is no model named {name!r}")
        return name


class Surface:
    """The API of a `PaperDaemon`, and what it is made of. Streams end after what there is unless ``live``."""

    def __init__(self, folder: Path, *, live: bool = False) -> None:
        self.clock = FakeClock()
        self.daemon = PaperDaemon(folder)
        self.events = EventLog("life")
        self.streams = Streams(self.events, lambda: {"status": self.daemon.status()}, self.clock)
        if not live:
            self.streams.close()
        self.app = Api(self.daemon, self.streams).app


Message = MutableMapping[str, Any]


class Asking:
    """One request to an ASGI application, whose answer is read as it comes."""

    def __init__(self, app: Any, method: str, target: str, headers: dict[str, str] | None = None) -> None:
        path, _, query = target.partition("?")
        self._scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "scheme": "http",
            "server": ("llmsup", 80),
            "http_version": "1.1",
        }
        self._app = app
        self._gone = asyncio.Event()
        self._begun = False
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def serve(self, send: Callable[[Message], Awaitable[None]] | None = None) -> None:
        await self._app(self._scope, self._receive, send or self.messages.put)

    def leave(self) -> None:
        self._gone.set()

    async def body(self) -> bytes:
        """The next piece of the answer's body."""
        while (message := await self.messages.get())["type"] != "http.response.body":
            pass
        return bytes(message["body"])


async def ask(
    app: Any, method: str, target: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of a whole answer."""
    asking = Asking(app, method, target, headers)
    await asking.serve()
    messages = [asking.messages.get_nowait() for _ in range(asking.messages.qsize())]
    fields = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], fields, b"".join(message.get("body", b"") for message in messages[1:])
