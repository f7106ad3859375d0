"""The control API as one table: every route, what it takes and what it answers. The OpenAPI document is made from it.

GET looks, POST changes. Query parameters only: a request of this interface has no body.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.control import documents, parameters
from supervisor.control.daemon import Daemon
from supervisor.control.eventlog import KEPT
from supervisor.control.parameters import Parameter

Arguments = Mapping[str, Any]
MOST_LINES = 5000

_MODEL = parameters.text("model", "a model's name; without it the default model")
_NAMED = parameters.text("model", "a model's name", required=True)
_FOLLOW = parameters.flag("follow", "1: go on as server-sent events until you close")


@dataclass(frozen=True, slots=True)
class Operation:
    """``answer``: the document, or its bytes; None: a stream, or what only the server itself can say (`api`)."""

    method: str
    path: str
    summary: str
    document: Any
    answer: Callable[[Daemon, Arguments], object | Awaitable[object]] | None
    parameters: tuple[Parameter, ...] = ()
    streams: bool = False
    may_fail: tuple[int, ...] = ()  # statuses beyond 200, 400 and 500
    media: str = "application/json"

    @property
    def id(self) -> str:
        return f"{self.method.lower()}{self.path.replace('/', '_').replace('.', '_')}"


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/status", "The daemon and its models now.", documents.Status, lambda d, _: d.status()),
    Operation(
        "GET",
        "/models",
        "The configured models.",
        documents.Models,
        lambda d, _: {"models": d.models()},
    ),
    Operation(
        "GET",
        "/requests",
        "The requests in flight, oldest first.",
        documents.Requests,
        lambda d, _: {"requests": d.requests()},
    ),
    Operation(
        "GET",
        "/clients",
        "Who asks, and how much of their limits they have used.",
        documents.Clients,
        lambda d, _: {"clients": d.clients()},
    ),
    Operation(
        "GET",
        "/deaths",
        "The last deaths with cause and evidence.",
        documents.Deaths,
        lambda d, _: d.deaths(),
    ),
    Operation(
        "GET",
        "/history",
        "States, memory and load of the last hour.",
        documents.History,
        lambda d, _: d.history(),
    ),
    Operation(
        "GET",
        "/config",
        "The configuration in force, secrets masked.",
        documents.Config,
        lambda d, _: d.config(),
    ),
    Operation(
        "GET",
        "/events",
        "The newest events; followed, as server-sent events, resumed by Last-Event-ID.",
        documents.Events,
        None,
        (
            parameters.count("n", "so many of the newest events first", default=100, most=KEPT),
            _FOLLOW,
            parameters.flag("snapshots", "1: with a `snapshot` event every two seconds, while followed"),
        ),
        streams=True,
        may_fail=(503,),
    ),
    Operation(
        "GET",
        "/logs",
        "The newest lines of llama-server's output, or of llmsup's own log.",
        documents.Logs,
        None,
        (
            _MODEL,
            parameters.choice("of", "whose log", "model", "daemon", "errors"),
            parameters.count("n", "so many of the newest lines", default=100, most=MOST_LINES),
            _FOLLOW,
        ),
        streams=True,
        may_fail=(404, 503),
    ),
    Operation(
        "GET",
        "/metrics",
        "For Prometheus: its text format, or OpenMetrics for who accepts that.",
        str,
        None,
        media="text/plain",
    ),
    Operation("GET", "/openapi.json", "This document.", documents.OpenApi, None),
    Operation(
        "POST",
        "/cancel",
        "End the request of that id.",
        documents.Cancelled,
        lambda d, a: {"cancelled": d.cancel(a["id"], a["number"])},
        (
            parameters.text("id", "the request's id", required=True),
            parameters.number("number", "which one, where several have that id (`/requests` has it)"),
        ),
        may_fail=(404, 409),
    ),
    Operation(
        "POST",
        "/restart",
        "Drain a model, end its llama-server, start another.",
        documents.Restarting,
        lambda d, a: _named("restarting", d.restart(a["model"])),
        (_MODEL,),
        may_fail=(404, 503),
    ),
    Operation(
        "POST",
        "/load",
        "Start a model's llama-server.",
        documents.Loading,
        lambda d, a: _named("loading", d.load(a["model"])),
        (_NAMED,),
        may_fail=(404, 503),
    ),
    Operation(
        "POST",
        "/unload",
        "Drain a model and end its llama-server.",
        documents.Unloading,
        lambda d, a: _named("unloading", d.unload(a["model"])),
        (_NAMED,),
        may_fail=(404, 503),
    ),
    Operation(
        "POST",
        "/reload",
        "Read the configuration again.",
        documents.Reloaded,
        lambda d, a: d.reload(dry_run=a["dry_run"]),
        (parameters.flag("dry_run", "1: only say what would change"),),
        may_fail=(503,),
    ),
    Operation(
        "POST",
        "/keys/reload",
        "Read the API keys again.",
        documents.KeysReloaded,
        lambda d, _: d.reload_keys(),
    ),
    Operation(
        "POST",
        "/stop",
        "Drain, end all llama-servers and then llmsup.",
        documents.Stopping,
        lambda d, a: _stop(d, now=a["now"]),
        (parameters.flag("now", "1: do not wait for running answers"),),
    ),
)


async def _named(what: str, outcome: Awaitable[str]) -> dict[str, str]:
    return {what: await outcome}


def _stop(daemon: Daemon, *, now: bool) -> dict[str, bool]:
    daemon.request_stop(now=now)
    return {"stopping": True}
