"""What `llmsup top` sees of the daemon at one moment, and how fast tokens come, from two of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from supervisor.control.client import OutdatedDaemon
from supervisor.errors import LlmsupError, NotRunning

EVENTS = 50  # of the newest
Document = Mapping[str, Any]


class Asking(Protocol):
    def get(self, path: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Sight:
    """``rates``: tokens a second by model, None where that is not known yet. ``trouble``: why this is an old sight."""

    at: datetime
    status: Document
    requests: list[Document] = field(default_factory=list)
    clients: list[Document] = field(default_factory=list)
    events: list[Document] = field(default_factory=list)
    rates: Mapping[str, float | None] = field(default_factory=dict)
    trouble: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "trouble": self.trouble or None,
            "status": self.status,
            "requests": self.requests,
            "clients": self.clients,
            "events": self.events,
            "tokens_per_s": self.rates,
        }


class Watch:
    """Looks again and again; ``now`` in monotonic seconds, ``wall`` for display."""

    def __init__(
        self,
        client: Asking,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._client = client
        self._now = now
        self._wall = wall
        self._last: Sight | None = None
        self._looked_at = 0.0

    def look(self) -> Sight:
        """The daemon now; the last sight of it with its trouble, where it does not answer any more.

        Raises:
            LlmsupError: it has never answered.
        """
        try:
            sight = self._ask()
        except LlmsupError as exc:
            if self._last is None:
                raise
            gone = (
                "llmsup is not running; it is shown again when it is" if isinstance(exc, NotRunning) else ""
            )
            return replace(self._last, at=self._wall(), trouble=gone or str(exc))
        self._last = sight
        return sight

    def _ask(self) -> Sight:
        status = self._client.get("/status")
        looked_at = self._now()
        sight = Sight(
            at=self._wall(),
            status=status,
            requests=self._list("/requests", "requests"),
            clients=self._list("/clients", "clients"),
            events=self._list(f"/events?n={EVENTS}", "events") or _ends(status),
            rates=rates(self._last.status if self._last else None, status, looked_at - self._looked_at),
        )
        self._looked_at = looked_at
        return sight

    def _list(self, path: str, key: str) -> list[Document]:
        """Empty where the daemon is older than the route."""
        try:
            rows: list[Document] = self._client.get(path)[key]
        except OutdatedDaemon:
            return []
        return rows


def rates(before: Document | None, now: Document, seconds: float) -> dict[str, float | None]:
    """Of each model; None: it is the first sight, of this daemon or of all."""
    same = before is not None and before["pid"] == now["pid"] and seconds > 0
    counted = {one["name"]: one.get("tokens") for one in before["models"]} if before and same else {}
    return {one["name"]: _rate(counted.get(one["name"]), one.get("tokens"), seconds) for one in now["models"]}


def _rate(before: int | None, now: int | None, seconds: float) -> float | None:
    if before is None or now is None or now < before:
        return None
    return round((now - before) / seconds, 1)


def _ends(status: Document) -> list[Document]:
    """Of a daemon that tells no events, its last deaths."""
    return [
        {"kind": "death", "at": death["at"], "data": {"model": one["name"], **death}}
        for one in status["models"]
        if (death := one["last_death"]) is not None
    ]
