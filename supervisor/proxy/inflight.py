"""The in-flight table: one row per request, from its last byte in to its last byte out.

A row is the request's whole state; stages fill it in, nobody copies it. Rows are added by the wire
and removed by the wire, in one place each, so a row that is left over is a bug that shows.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.errors import Conflict
from supervisor.proxy.request_bounds import ORDINARY
from supervisor.proxy.trace import Traces
from supervisor.types import Generation

if TYPE_CHECKING:
    from supervisor.errors import LlmsupError
    from supervisor.keys.key import Key
    from supervisor.proxy.gate import Gate
    from supervisor.proxy.headers import RequestFields
    from supervisor.proxy.outline import Outline
    from supervisor.proxy.stream import ClientStream
    from supervisor.proxy.turns import Share
    from supervisor.proxy.upstream import Upstream
    from supervisor.proxy.usage import Meter, Usage
    from supervisor.proxy.wire import ClientConnection
    from supervisor.ratelimit.limiter import Grant
    from supervisor.ratelimit.store_redis import SharedGrant


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. ``name`` is the contract's (``ip:192.0.2.1``), ``label`` the same as header bytes.

    ``pool``: whose limits apply; ``key``: the API key it has shown, if it has.
    """

    name: str
    label: bytes
    pool: str = "anonymous"
    key: Key | None = None


ANONYMOUS = Client("anonymous", b"anonymous")
SHOWN_ALIKE = 8  # in one error; `llmsup requests` shows all of them
LEFT = 499  # no status of HTTP: the client has left before its answer was whole


class Exchange:
    """One request and what has become of it. Times are monotonic seconds.

    ``answering`` is true from the first byte of the answer on: after it nothing can be asked again, unless
    there is a ``stream``, which can be continued. ``outgoing`` and ``outgoing_target``: what the child is asked instead
    of the client's own words.
    """

    __slots__ = (
        "answering",
        "aside",
        "asked",
        "assembled",
        "attempts",
        "began_at",
        "body",
        "charged",
        "client",
        "connection",
        "continuable",
        "continued",
        "convicted",
        "counted",
        "crashes",
        "deadline",
        "delayed",
        "demand",
        "excused",
        "fields",
        "final",
        "first_token_at",
        "flowed",
        "gate",
        "grant",
        "http10",
        "id",
        "in_turn",
        "is_head",
        "keep",
        "large",
        "leased",
        "lines",
        "meter",
        "metered",
        "method",
        "needs_slot",
        "number",
        "outgoing",
        "outgoing_target",
        "outline",
        "own_fault",
        "owner",
        "path",
        "peer",
        "queue_ms",
        "received_at",
        "refusal",
        "retrying",
        "sent_at",
        "sent_to",
        "served",
        "share",
        "status",
        "stream",
        "target",
        "trace",
        "tried",
        "unserved",
        "upstream",
        "usage",
        "waited_s",
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
        self.asked: dict[str, Any] | None = None  # the body, understood
        self.outline: Outline | None = None  # of a large body, until it is read
        self.demand = ORDINARY  # what of the body its model must judge
        self.outgoing: bytes | None = None
        self.outgoing_target = b""
        self.assembled = False  # the client asked for one piece, the child is asked for a stream
        self.stream: ClientStream | None = None
        self.continuable = False  # its answer is kept if it is a stream
        self.counted = 0  # bytes of the body that the budget of all bodies knows of
        self.owner = ""  # as it knows its client
        self.http10 = False
        self.keep = True
        self.is_head = method == b"HEAD"
        self.id = b""
        self.number = 0  # of this request alone: its client may have chosen the id, and more than once
        self.lines = b""  # header lines for its answer: of CORS and of limits
        self.trace = b""  # its `traceparent`, the client's or ours
        self.client = ANONYMOUS
        self.gate: Gate | None = None
        self.needs_slot = True
        self.leased = 0  # slots it has: as many as it makes answers
        self.grant: Grant | SharedGrant | None = None  # what it has been charged
        self.meter: Meter | None = None  # counts the tokens of its answer as they come
        self.usage: Usage | None = None  # what it took, when the child has said so
        self.share: Share | None = None  # where others wait too
        self.in_turn = False  # the fair queue counts it as in service
        self.large = False  # it has a prompt that takes llama-server long to read
        self.charged = 0.0  # weighted tokens, to its client's turns
        self.flowed = 0  # tokens of its answer, of them
        self.aside = False  # it is the operator's, and no model's
        self.unserved = False  # it was refused, or nobody could answer it
        self.own_fault = False  # for its sender's fault
        self.upstream: Upstream | None = None
        self.answering = False
        self.attempts = 0
        self.continued = 0  # times its stream went on with another generation
        self.refusal: LlmsupError | None = None  # why the same generation is not to be asked again
        self.delayed = False  # it is not sent to the same generation again yet
        self.retrying = False  # it is at the child, and not for the first time
        self.sent_to = Generation(0)
        self.served = False  # the child has answered it, well or not
        self.crashes = 0  # of llama-server, with this request inside, but for those that were another's fault
        self.excused = 0  # those
        self.tried = False  # it has been at the child alone since the latest one
        self.convicted = False  # it was its fault
        self.final = False  # it is not asked again, whatever the configuration allows
        self.received_at = 0.0
        self.began_at = 0.0  # when it was sent, most lately
        self.sent_at = 0.0  # when it had been written to llama-server, most lately
        self.first_token_at = 0.0
        self.waiting_since = 0.0
        self.waited_s = 0.0  # in the queue, before the present wait
        self.deadline = 0.0
        self.queue_ms = 0
        self.status = 0  # of its answer; LEFT: nobody waited for it; of one that was cut, that of the error
        self.metered = True  # it counts, and is told of in the access log

    def __repr__(self) -> str:
        return f"<Exchange {self.id.decode()} {self.method.decode()} {self.path.decode('latin-1')} of {self.client.name}>"

    @property
    def names(self) -> dict[str, str]:
        """What every line of the log about it says."""
        return {"request_id": self.id.decode("latin-1"), "trace_id": self.trace[3:35].decode("latin-1")}

    @property
    def produced(self) -> int:
        """Tokens of its answer so far, about."""
        return self.meter.tokens if self.meter is not None else 0

    def count(self, block: bytes) -> None:
        """The tokens of the next block of its event stream; its gate is told of the first, and that a large one goes on."""
        meter = self.meter
        if meter is None:
            return
        before = meter.tokens
        meter.add(block)
        if self.gate is not None:
            self.gate.tokens += meter.tokens - before
            if meter.tokens > before and (not before or self.crashes or (self.large and self.continued)):
                self.gate.first_token(self)

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
        self.continued = 0
        self._prefix = os.urandom(6).hex().encode()
        self._count = itertools.count(1)
        self._traces = Traces()

    def __repr__(self) -> str:
        return f"<InFlight {len(self.rows)} now, {self.total} in all, {self.failed} failed>"

    def add(self, exchange: Exchange) -> None:
        """Enter a request and name it, by the client's own name for it if that is a fit one."""
        exchange.number = number = next(self._count)
        exchange.id = exchange.fields.request_id or b"%b-%x" % (self._prefix, number)
        exchange.trace = exchange.fields.trace or self._traces.new()
        self.total += 1
        self.rows.add(exchange)

    def leave_out(self, exchange: Exchange) -> None:
        """It is the operator's, who looks at this table: neither counted nor listed."""
        exchange.aside = True
        self.rows.discard(exchange)
        self.total -= 1
        exchange.metered = False

    def named(self, request_id: bytes, number: int | None) -> list[Exchange]:
        """The one that is meant, or none. Raises Conflict: there are several of that id."""
        found = [
            row
            for row in sorted(self.rows, key=lambda row: row.number)
            if row.id == request_id and number in {None, row.number}
        ]
        if len(found) > 1:
            each = ", ".join(f"{row.number} of {row.client.name}" for row in found[:SHOWN_ALIKE])
            raise Conflict(
                f"{len(found)} requests have the id {request_id.decode('latin-1')!r}",
                hint=f"say which one with its number: {each}",
            )
        return found

    def new_id(self) -> bytes:
        return b"%b-%x" % (self._prefix, next(self._count))

    def remove(self, exchange: Exchange) -> None:
        self.rows.discard(exchange)
        self.continued += exchange.continued
        exchange.stream = None  # they point at each other, and the collector runs rarely here
