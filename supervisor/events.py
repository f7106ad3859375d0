"""What the rooms tell each other about a child: frozen, printable, safe to keep.

An `InstanceView` is the only thing the proxy and the control API ever see of an instance. It is
made anew by the instance's own task at each change and never altered afterwards.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from supervisor.types import Generation, ModelName


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a generation listens, and the key it asks for. The key never prints itself."""

    host: str
    port: int
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Inside:
    """Who was at a generation when it ended: so many requests, of so many clients."""

    requests: int = 0
    clients: int = 0

    @property
    def stands_out(self) -> bool:
        """All of it was of one client: nobody else can have done it."""
        return self.clients == 1


NOBODY = Inside()


@dataclass(frozen=True, slots=True)
class Death:
    """One end of a generation. ``at`` is wall time; ``uptime_s`` counts from spawn.

    From ``model`` on it is what `llmsup why` tells beyond the contract's ``last_death``. ``phase``: what the
    instance was doing (loading, ready, draining, stopping); ``evidence``: what decided for this cause, a line of
    the child's or what the kernel counted; ``lines``: its last output; ``rss_bytes``: its memory at the last look;
    ``then``: what llmsup did next; ``degraded``: why it ran on the safe profile, if it did; ``inside``: so many
    requests were at it.
    """

    at: datetime
    generation: Generation
    cause: str
    signal: str | None
    exit_code: int | None
    uptime_s: float
    detail: str
    permanent: bool = False
    model: str = ""
    phase: str = ""
    evidence: str = ""
    lines: tuple[str, ...] = ()
    rss_bytes: int | None = None
    then: str = ""
    degraded: str | None = None
    inside: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The contract's ``last_death``."""
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "cause": self.cause,
            "signal": self.signal,
            "exit_code": self.exit_code,
            "uptime_s": round(self.uptime_s, 3),
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Unload:
    """When a model left memory though nothing was wrong with it. ``reason``: ttl, evicted or operator."""

    reason: str
    at: datetime

    def as_dict(self) -> dict[str, str]:
        return {"reason": self.reason, "at": self.at.isoformat(timespec="milliseconds")}


@dataclass(frozen=True, slots=True)
class Second:
    """A model's other llama-server. ``role``: next (is to take over), leaving (finishes what it has) or standby.

    ``why``: what keeps a standby from being there, or made its state what it is.
    """

    role: str
    state: str
    generation: Generation
    pid: int | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as it was at one moment. ``*_at`` are monotonic seconds of the daemon's clock.

    ``restarts``: processes that llmsup began of its own accord after one had ended (`proc.history`).
    From ``on_demand`` on it is what is known of the model as a whole (`proc.lineup`).
    """

    name: ModelName
    state: str
    generation: Generation
    pid: int | None
    endpoint: Endpoint | None
    slots: int
    model_path: str
    context_size: int
    restarts: int
    since: float
    spawned_at: float | None
    next_try_at: float | None
    wanted: bool
    last_death: Death | None
    checks: int = 0  # grows each time the instance was asked "do you live?" and did
    suspect: str | None = None  # why it is thought to hang
    spins: str | None = None  # why it may be busy in vain: for people only, nothing is decided by it
    degraded: str | None = None  # why the safe profile is in use (or will be, at the next start)
    seat: str = ""  # which of the model's two it is: "" or "#2"
    on_demand: bool = False  # it is not loaded, and a request for it loads it
    second: Second | None = None
    last_unload: Unload | None = None
    not_replaced: str | None = None  # why the latest restart left the old one in service
    removed: bool = False  # no longer configured: it finishes what it has, and nobody is told of it

    @property
    def holder(self) -> str:
        """The model and the seat: whose memory, lock and marker it is. No model's name has a ``#``."""
        return f"{self.name}{self.seat}"

    @property
    def ready(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.state == "READY"

    @property
    def coming(self) -> bool:
        """Whether it is on its way to READY without anybody doing anything."""
        return self.wanted and self.state not in {"FAILED", "UNKILLABLE", "STOPPED"}

    def why(self) -> str:
        """In words: the state, and the last death if that is why."""
        if self.removed:
            return f"{self.name} is no longer in the configuration"
        if self.last_death is not None and self.state in {"BACKOFF", "CRASHLOOP", "FAILED", "STOPPED"}:
            return f"{self.name} is {self.state}: {self.last_death.cause}: {self.last_death.detail}"
        if self.suspect is not None:
            return f"{self.name} is {self.state}, but suspected to hang: {self.suspect}"
        return f"{self.name} is {self.state}"
