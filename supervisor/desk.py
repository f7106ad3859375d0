"""The operator's desk: what can be asked of the running daemon (`control.daemon.Daemon`), answered from its parts.

Nothing here waits for a child. What changes something is written into the chronicle, whoever has asked for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.control import clients
from supervisor.control.chronicle import Chronicle
from supervisor.control.effective import effective
from supervisor.control.history import History
from supervisor.control.requests import table
from supervisor.control.status import Snapshot, status
from supervisor.errors import ModelUnavailable, NotFound
from supervisor.events import InstanceView
from supervisor.listen import Listener, UnixListener
from supervisor.observe.logging import DaemonLogs
from supervisor.parts import Parts
from supervisor.proc.deaths import dump
from supervisor.proc.lineup import Terms
from supervisor.ratelimit.pools import OF_KEYS
from supervisor.reload import Reloader
from supervisor.settings.load import Loaded

CLIENTS_SHOWN = 50  # of those who have nothing in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What the daemon has beside its parts. ``stop`` is told whether to hurry."""

    loaded: Loaded
    listener: Listener
    unix: UnixListener
    logs: DaemonLogs
    reloader: Reloader
    chronicle: Chronicle
    tls: bool
    stopping: Callable[[], bool]
    stop: Callable[[bool], None]


class Desk:
    def __init__(self, parts: Parts, around: Around) -> None:
        self._parts = parts
        self._around = around
        self._clock = parts.clock
        self._started_at = parts.clock.now()
        self.history_of = History(self.status, parts.clock)

    @property
    def _default(self) -> str:
        return self._parts.pipeline.default

    # ---- looking

    def status(self) -> dict[str, object]:
        around, parts, reloader = self._around, self._parts, self._around.reloader
        settings = around.loaded.settings
        return status(
            Snapshot(
                config=str(around.loaded.path),
                listen=str(around.listener),
                listen_unix=around.unix.address,
                tls=around.tls,
                uptime_s=self._clock.now() - self._started_at,
                now=self._clock.now(),
                limit_bytes=settings.memory.limit_mb << 20,
                views=parts.fleet.views,
                gates=parts.admission.gates,
                in_flight=parts.in_flight,
                queued=parts.admission.waiting,
                stopping=around.stopping(),
                log_dir=str(settings.log_dir),
                model_logs={name: file.view() for name, file in parts.model_logs.items()},
                own_logs=[file.view() for file in around.logs.all],
                deaths_error=parts.deaths.error,
                keys=parts.keyring.count,
                keys_error=parts.keyring.error,
                config_error=reloader.refused.as_dict() if reloader.refused is not None else None,
                config_pending=reloader.pending,
                limits_store=store.status if (store := parts.limits.store) is not None else None,
                bans=parts.admission.bans.closed(self._clock.now()),
                memory=parts.memory,
                estimates=parts.budget.estimates,
            )
        )

    async def deaths(self) -> bytes:
        """As in the file, with those that are not there yet. Half a megabyte at worst, so in a thread."""
        entries = self._parts.deaths.entries
        return await asyncio.to_thread(lambda: b"".join(dump(entries)))

    def requests(self) -> list[dict[str, object]]:
        return table(self._parts.in_flight.rows, self._clock.now())

    def clients(self) -> list[dict[str, Any]]:
        limiter, now_ns = self._parts.limits.limiter, self._clock.now_ns()
        known = {
            client: {
                "pool": pool.removesuffix(OF_KEYS),
                "limits": clients.use_of(limiter.standings(client, pool, now_ns)),
            }
            for client, pool in limiter.lately(CLIENTS_SHOWN)
        }
        return clients.table(self._parts.in_flight.rows, known)

    def models(self) -> list[dict[str, Any]]:
        parts = self._parts
        return [
            {
                "name": view.name,
                "state": view.state,
                "path": view.model_path,
                "context_size": view.context_size,
                "slots": view.slots,
                "default": view.name == self._default,
                **_residence(parts.fleet.lineup(view.name).terms, view),
                "aliases": [alias for alias, name in parts.aliases.items() if name == view.name],
            }
            for view in self._parts.fleet.views.values()
            if not view.removed
        ]

    def config(self) -> dict[str, Any]:
        reloader = self._around.reloader
        return effective(reloader.current, reloader.pending)

    def history(self) -> dict[str, Any]:
        return self.history_of.as_dict()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return await self._parts.telemetry.gather(accept)

    def look(self) -> dict[str, Any]:
        """What a watcher is shown every other second."""
        return {"status": self.status(), "requests": self.requests(), "clients": self.clients()}

    def log_path(self, model: str | None) -> Path:
        """Raises NotFound."""
        return self._parts.model_logs[self._parts.fleet.find(model or self._default).name].path

    def own_log_path(self, *, errors: bool) -> Path:
        logs = self._around.logs
        return (logs.errors if errors else logs.general).path

    # ---- changing

    def cancel(self, request_id: str, number: int | None = None) -> int:
        ended = self._parts.pipeline.cancel_by_id(request_id.encode("latin-1", "replace"), number)
        if not ended:
            raise NotFound(f"no request {request_id!r} is in flight", hint="see: llmsup requests")
        self._around.chronicle.action("cancel", request_id)
        return ended

    def request_stop(self, *, now: bool) -> None:
        self._around.chronicle.action("stop", None)
        self._around.stop(now)

    async def restart(self, name: str | None) -> str:
        parts, chosen = self._parts, name or self._default
        parts.admission.forgive()
        return await self._command(
            "restart", chosen, lambda: parts.fleet.restart(chosen, parts.residents.room)
        )

    async def load(self, name: str) -> str:
        return await self._command("load", name, lambda: self._parts.residents.load(name))

    async def unload(self, name: str) -> str:
        return await self._command("unload", name, lambda: self._parts.residents.unload(name))

    async def _command(self, verb: str, name: str, do: Callable[[], Awaitable[None]]) -> str:
        self._check_living()
        self._parts.fleet.find(name)
        self._around.chronicle.action(verb, name)
        await do()
        return name

    async def reload(self, *, dry_run: bool) -> dict[str, object]:
        self._check_living()
        reloader = self._around.reloader
        return await (reloader.preview() if dry_run else reloader.reload())

    async def reload_keys(self) -> dict[str, object]:
        count = await self._parts.keyring.reload()
        return {"keys": count, "refused": self._parts.keyring.error or None}

    def _check_living(self) -> None:
        if self._around.stopping():
            raise ModelUnavailable("llmsup is shutting down")


def _residence(terms: Terms, view: InstanceView) -> dict[str, Any]:
    """When it is in memory."""
    return {
        "preload": terms.preload,
        "ttl_s": terms.ttl_s,
        "standby": terms.standby,
        "last_unload": view.last_unload.as_dict() if view.last_unload is not None else None,
    }
