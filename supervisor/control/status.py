"""The state now, in the contract's shape (CONTRACT: "`llmsup status --json`"). From snapshots only."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from supervisor import __version__
from supervisor.events import InstanceView, Second
from supervisor.observe.logfile import LogView
from supervisor.proc import vitals
from supervisor.proc.memory import MemoryWatch
from supervisor.proxy.bans import Ban
from supervisor.proxy.gate import Gate
from supervisor.proxy.inflight import InFlight
from supervisor.types import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a status is made of; ``now`` and ``uptime_s`` in monotonic seconds."""

    config: str
    listen: str
    uptime_s: float
    now: float
    limit_bytes: int
    views: Mapping[ModelName, InstanceView]
    gates: Mapping[ModelName, Gate]
    in_flight: InFlight
    queued: int
    stopping: bool
    tls: bool = False
    listen_unix: str | None = None
    log_dir: str = ""
    model_logs: Mapping[ModelName, LogView] = field(default_factory=dict)
    own_logs: Sequence[LogView] = ()
    memory: MemoryWatch | None = None
    estimates: Mapping[str, int] = field(
        default_factory=dict
    )  # bytes each model was counted with at its start
    deaths_error: str = ""  # why the record of deaths is not on the disk, if it is not
    keys: int = 0
    keys_error: str = ""  # why no key is accepted, if none is
    config_error: Mapping[str, str] | None = None  # what is wrong with the file as it is now, and since when
    limits_store: Mapping[str, Any] | None = None  # where several daemons count together
    bans: Sequence[Ban] = ()  # clients that are refused for what their requests have done
    config_pending: Sequence[str] = ()  # keys of it that wait for the next start


def status(snapshot: Snapshot) -> dict[str, Any]:
    models = [_model(view, snapshot) for view in snapshot.views.values()]
    own = vitals.read(os.getpid())
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(snapshot.uptime_s, 3),
        "listen": snapshot.listen,
        "listen_unix": snapshot.listen_unix,
        "url": f"{'https' if snapshot.tls else 'http'}://{snapshot.listen}",
        "config": snapshot.config,
        "config_error": snapshot.config_error,
        "config_pending": list(snapshot.config_pending),
        "stopping": snapshot.stopping,
        "memory": {
            "daemon_rss_bytes": own.rss_bytes if own is not None else 0,
            "children_rss_bytes": sum(_rss_bytes(model) for model in models),
            "limit_bytes": snapshot.limit_bytes,
            "warning": snapshot.memory.warning or None if snapshot.memory is not None else None,
        },
        "requests": {
            "in_flight": len(snapshot.in_flight.rows) - snapshot.queued,
            "queued": snapshot.queued,
            "total": snapshot.in_flight.total,
            "failed": snapshot.in_flight.failed,
            "continued": snapshot.in_flight.continued,
        },
        "logs": {
            "dir": snapshot.log_dir,
            "error": next((one.error for one in snapshot.own_logs if one.error is not None), None),
            "dropped": sum(one.dropped_lines for one in snapshot.own_logs),
        },
        "deaths": {"error": snapshot.deaths_error or None},
        "keys": {"count": snapshot.keys, "error": snapshot.keys_error or None},
        "limits": {"store": snapshot.limits_store},
        "bans": [{"client": one.client, "left_s": round(one.left_s, 1)} for one in snapshot.bans],
        "models": models,
    }


def _model(view: InstanceView, snapshot: Snapshot) -> dict[str, Any]:
    signs = vitals.read(view.pid) if view.pid is not None else None
    gate = snapshot.gates[view.name]
    logged = snapshot.model_logs.get(view.name)
    next_try_s = max(0.0, view.next_try_at - snapshot.now) if view.next_try_at is not None else None
    return {
        "name": view.name,
        "state": view.state,
        "pid": view.pid,
        "port": view.endpoint.port if view.endpoint is not None else None,
        "generation": view.generation,
        "restarts": view.restarts,
        "uptime_s": round(snapshot.now - view.spawned_at, 3) if view.spawned_at is not None else None,
        "rss_bytes": signs.rss_bytes if signs is not None else 0,
        "memory": snapshot.memory.figures(view.holder) if snapshot.memory is not None else None,
        "estimated_bytes": snapshot.estimates.get(view.holder),
        "slots": {"total": view.slots, "busy": gate.leases},
        "tokens": gate.tokens,
        "circuit_breaker": gate.breaker.state.value,
        "next_try_s": round(next_try_s, 3) if next_try_s is not None else None,
        "suspect": view.suspect or view.spins,
        "model_path": view.model_path,
        "degraded": view.degraded,
        "log": asdict(logged) if logged is not None else None,
        "second": _second(view.second) if view.second is not None else None,
        "last_unload": view.last_unload.as_dict() if view.last_unload is not None else None,
        "not_replaced": view.not_replaced,
        "last_death": view.last_death.as_dict() if view.last_death is not None else None,
    }


def _second(second: Second) -> dict[str, Any]:
    signs = vitals.read(second.pid) if second.pid is not None else None
    return asdict(second) | {"rss_bytes": signs.rss_bytes if signs is not None else 0}


def _rss_bytes(model: dict[str, Any]) -> int:
    """Of all its llama-servers."""
    other: int = model["second"]["rss_bytes"] if model["second"] is not None else 0
    own: int = model["rss_bytes"]
    return own + other
