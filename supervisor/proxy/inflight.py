"""The in-flight table: one row per request, from its last byte in to its last byte out.

A row is the request's whole state; stages fill it in, nobody copies it. Rows are added by the wire
and removed by the wire, in one place each, so a row that is left over is a bug that shows.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.proxy.admission import Gate
    from supervisor.proxy.headers import RequestFields
    from supervisor.proxy.upstream import Upstream
    from supervisor.proxy.wire import ClientConnection


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. ``name`` is the contract's (``ip:192.0.2.1``), ``label`` the same as header bytes."""

    name: str
    label: bytes


ANONYMOUS = Client("anonymous", b"anonymous")


class Exchange:
    """One request and what has become of it. Times are monotonic seconds.

    ``answering`` is true from the first byte of the answer on: after it nothing can be asked again.
    """

    __slots__ = (
        "answering",
        "attempts",
        "body",
        "client",
        "connection",
        "counted",
        "deadline",
        "fields",
        "final",
        "gate",
        "http10",
        "id",
        "is_head",
        "keep",
        "leased",
        "method",
        "needs_slot",
        "path",
        "peer",
        "queue_ms",
        "received_at",
        "target",
        "upstream",
        "waiting_since",
    )

    def __init__(
        self, connection: ClientConnection, method: bytes, target: bytes, fields: RequestFields, peer: str
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.fields = fields
        self.peer = peer
        self.path = b""
        self.body = b""
        self.counted = 0  # bytes of the body that the budget of all bodies knows of
        self.http10 = False
        self.keep = True
        self.is_head = method == b"HEAD"
        self.id = b""
        self.client = ANONYMOUS
        self.gate: Gate | None = None
        self.needs_slot = True
        self.leased = False
        self.upstream: Upstream | None = None
        self.answering = False
        self.attempts = 0
        self.final = False  # it is not asked again, whatever the configuration allows
        self.received_at = 0.0
        self.waiting_since = 0.0
        self.deadline = 0.0
        self.queue_ms = 0

    def __repr__(self) -> str:
        return f"<Exchange {self.id.decode()} {self.method.decode()} {self.path.decode('latin-1')} of {self.client.name}>"

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection.current is not self


class InFlight:
    """The rows, and the totals since the start."""

    def __init__(self) -> None:
        self.rows: set[Exchange] = set()
        self.total = 0
        self.failed = 0
        self._prefix = os.urandom(6).hex().encode()
        self._count = itertools.count(1)

    def __repr__(self) -> str:
        return f"<InFlight {len(self.rows)} now, {self.total} in all, {self.failed} failed>"

    def add(self, exchange: Exchange) -> None:
        """Enter a request and name it, by the client's own name for it if that is a fit one."""
        exchange.id = exchange.fields.request_id or self.new_id()
        self.total += 1
        self.rows.add(exchange)

    def new_id(self) -> bytes:
        return b"%b-%x" % (self._prefix, next(self._count))

    def remove(self, exchange: Exchange) -> None:
        self.rows.discard(exchange)
