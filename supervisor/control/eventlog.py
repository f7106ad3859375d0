"""What has happened, newest last: a bounded ring of numbered events. Pure: times are arguments.

An event's id names the daemon's life it belongs to, so that whoever resumes with the id of an earlier daemon is
shown everything of this one instead of waiting for a number that is long past.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

KEPT = 1000

# Every kind there is, and when it is written. The OpenAPI document lists them.
KINDS: Mapping[str, str] = {
    "state": "an instance has entered another state",
    "death": "a generation has ended: its cause, its evidence and what llmsup did then",
    "reload": "the configuration was read again: what was applied, what waits for the next start",
    "config_error": "the configuration was read again and refused",
    "rate_limit": "a client was refused because of its limits",
    "client_banned": "a client is refused for an hour, because its requests have brought llama-server down",
    "action": "an operator has asked for something that changes the service",
}


@dataclass(frozen=True, slots=True)
class Event:
    """``number`` counts from 1 in one life; ``at`` is wall time."""

    id: str
    number: int
    kind: str
    at: datetime
    data: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "at": self.at.isoformat(timespec="milliseconds"),
            "data": dict(self.data),
        }


class EventLog:
    """``life``: a text without a dash that no other daemon of this machine has had."""

    def __init__(self, life: str, *, kept: int = KEPT) -> None:
        self._life = life
        self._ring: deque[Event] = deque(maxlen=kept)
        self._listeners: list[Callable[[], None]] = []
        self._newest = 0

    def __repr__(self) -> str:
        return f"<EventLog {self._life}: {len(self._ring)} of {self._newest}>"

    @property
    def newest(self) -> int:
        """The number of the newest event; 0: none has been."""
        return self._newest

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each event."""
        self._listeners.append(listener)

    def add(self, kind: str, at: datetime, data: Mapping[str, Any]) -> Event:
        """Raises ValueError: there is no such kind."""
        if kind not in KINDS:
            raise ValueError(f"no kind of event: {kind!r}")
        self._newest += 1
        event = Event(f"{self._life}-{self._newest}", self._newest, kind, at, data)
        self._ring.append(event)
        for listener in self._listeners:
            listener()
        return event

    def after(self, number: int) -> tuple[list[Event], int]:
        """The events since that one, oldest first, and how many before them have been forgotten."""
        fresh = [event for event in self._ring if event.number > number]
        oldest = fresh[0].number if fresh else self._newest + 1
        return fresh, max(0, oldest - number - 1)

    def last(self, count: int) -> list[Event]:
        """The newest so many, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    def number_of(self, event_id: str) -> int:
        """Where one who saw that event last goes on: from the beginning when it is of another life, or nonsense."""
        life, _, digits = event_id.partition("-")
        if life != self._life or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
            return 0
        return min(int(digits), self._newest)
