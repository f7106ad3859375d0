"""HTTP/1.1 on `asyncio.Protocol`, the client's side: bytes in, bytes out, backpressure.

No streams, no task and no future on the common path; llhttp (httptools) reads the requests. A body
is taken in whole before its request goes on: the request can then be sent again when the child
dies, a slow sender holds no slot, and llama-server parses it whole anyway. What the bodies of all
clients may occupy together is bounded by `BodyBudget`, which stops reading from the senders.

Answers keep the order of the requests (pipelining); one is being answered at a time.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable

from supervisor.errors import LlmsupError, RequestTimeout
from supervisor.proxy import answers
from supervisor.proxy.forwarded import address_of
from supervisor.proxy.handler import Handler, Hold
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.pace import Pace
from supervisor.proxy.reading import RequestReader
from supervisor.types import KIB
from supervisor.unixsocket import unix_peer

MAX_PIPELINED = 8
PIPELINED_BYTES = 8 * KIB  # behind one with a larger body no more is read: small bodies are in no other count
HEADER_TIMEOUT_S = 10.0
BODY_IDLE_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 75.0
SLOW_READER_S = 30.0  # also for its part in closing
TLS_LINGER_S = 1.0  # for the rest to run out: asyncio cannot close one half of a TLS connection
PROBE_FIRST_S, PROBE_EVERY_S = 0.05, 1.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class ClientConnection(RequestReader):
    """One client's connection. ``current`` is the request being answered."""

    __slots__ = (
        "_half_closed",
        "_hold",
        "_pace",
        "_paced",
        "_queue",
        "_refusal",
        "_unread",
        "_unread_s",
        "current",
        "spare",
        "stalled_since",
        "write",
    )

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._queue: deque[Exchange] = deque()
        self._hold = Hold(0)
        self._half_closed = False
        self._pace: Pace | None = None  # of the body of `_paced`
        self._paced: Exchange | None = None
        self.spare = False  # it has a place that is kept for health checks and keys
        self._refusal: LlmsupError | None = None
        self.current: Exchange | None = None
        self.stalled_since: float | None = None
        self._unread = b""  # the newest request whose answer was not read for a while
        self._unread_s = 0.0  # for how long, before `stalled_since`
        self.write: Callable[[bytes], None]  # bytes of the current answer, as they are to go out

    def __repr__(self) -> str:
        return (
            f"<ClientConnection {self.peer} current {self.current} queued {len(self._queue)} {self._hold!r}>"
        )

    # ---- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else unix_peer(transport.get_extra_info("socket"))
        handler = self._handler
        handler.connections.add(self)
        self.since = handler.now
        if len(handler.connections) > handler.max_connections:
            handler.make_room(self)

    @property
    def on_loopback(self) -> bool:
        """Whether it came in at an address that only programs of this machine, browsers too, can reach."""
        name = self._transport.get_extra_info("sockname")
        address = address_of(name[0]) if isinstance(name, tuple) else None
        return address is not None and address.is_loopback

    @property
    def idle(self) -> bool:
        """Whether nothing is being asked or answered."""
        return self.current is None and not self.reading and not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        handler = self._handler
        handler.connections.discard(self)
        self._forget_body()
        for waiting in self._queue:
            if waiting.counted:
                handler.budget.give(waiting.owner, waiting.counted)
        self._queue.clear()
        current, self.current = self.current, None
        if current is not None:
            handler.cancel(current)
            self._done_with(current)
        del self._parser  # its callbacks are ours: a ring, which would wait for the collector

    def eof_received(self) -> bool:
        """A client may close its half and still read (RFC 9112, 9.6). Whether it does, a probe tells.

        HTTP/1.0 knows no interim responses to probe with: there, who has closed has left. So it is with TLS,
        where asyncio closes both halves whatever is said here, and with the operator's streams, in which nothing
        may be said for long.
        """
        current = self.current
        if (current is None and not self._queue) or (
            current is not None and (current.http10 or current.aside)
        ):
            return False
        if not self._transport.can_write_eof():
            return False
        self._half_closed = True
        self._probe()
        return True

    def _probe(self, pause_s: float = PROBE_FIRST_S) -> None:
        if self._ask_whether_gone():
            asyncio.get_running_loop().call_later(pause_s, self._probe, PROBE_EVERY_S)

    def _ask_whether_gone(self) -> bool:
        """Write an interim response: who has closed for good answers with a reset, and the next write fails."""
        exchange = self.current
        if self._closing or exchange is None or exchange.answering or exchange.http10:
            return False
        self._transport.write(CONTINUE)
        return True

    def unread_s(self, now: float) -> float:
        """For how long in all the current answer has waited for its client to read, in seconds."""
        if self.current is None or self._unread != self.current.id:
            return 0.0
        return self._unread_s + (now - self.stalled_since if self.stalled_since is not None else 0.0)

    def hang_up(self) -> None:
        """Without another word: it does not read what we say."""
        self._transport.abort()

    def pause_writing(self) -> None:
        if self.current is not None and self._unread != self.current.id:
            self._unread, self._unread_s = self.current.id, 0.0
        self.stalled_since = self._handler.now
        self._wait(Hold.OUTPUT)
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.pause()

    def resume_writing(self) -> None:
        if self.stalled_since is not None:
            self._unread_s += self._handler.now - self.stalled_since
        self.stalled_since = None
        self._go_on(Hold.OUTPUT)
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.resume()

    # ---- one request

    def _connection(self) -> "ClientConnection":
        return self

    def _body_to_come(self, exchange: Exchange) -> bool:
        if self.current is not None or self._queue:
            return True  # it is looked at when it is its turn, and its client need not wait for a word (RFC 9110, 10.1.1)
        error = self._handler.look(exchange) or (self._handler.spared(exchange) if self.spare else None)
        if error is not None:
            self._turn_away(exchange, error)
            return False
        if exchange.fields.expect_continue and not exchange.http10:
            self._transport.write(CONTINUE)
        return True

    def _turn_away(self, exchange: Exchange, error: LlmsupError) -> None:
        """Answer before the body has come; what is still to come of it runs out."""
        self._discard = True
        self._incoming = None
        self._forget_body()
        exchange.keep = False
        self.current = exchange
        self._handler.turn_away(exchange, error)

    def _received(self, exchange: Exchange) -> None:
        if self.current is None and not self._queue:
            self._begin(exchange)
            return
        self._queue.append(exchange)
        if len(self._queue) >= MAX_PIPELINED or len(exchange.body) > PIPELINED_BYTES:
            self._wait(Hold.PIPELINE)

    def _begin(self, exchange: Exchange) -> None:
        self.current = exchange
        if self.spare:
            self._handler.begin_spare(exchange)
        else:
            self._handler.begin(exchange)

    def finish(self, exchange: Exchange) -> None:
        """The answer has been handed to the transport in full."""
        if self.current is not exchange:
            return
        self.current = None
        self._done_with(exchange)
        self.since = self._handler.now
        if not exchange.keep:
            if self._discard:  # of a body that nobody wanted, some may still be on its way
                self._linger()
            else:
                self._close()
            return
        while self._queue and self.current is None and not self._closing:
            self._begin(self._queue.popleft())
        if self.current is None and not self._closing:
            if self._refusal is not None:
                self._refuse(self._refusal)
            elif self._half_closed:
                self._close()
            elif self._hold:
                self._go_on(Hold.PIPELINE)

    def answer(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        extra: bytes = b"",
        kind: bytes = answers.JSON,
    ) -> None:
        """A complete answer of our own to the current request."""
        exchange.answering = True
        exchange.status = status
        self.write(
            answers.response(
                status, body, keep=exchange.keep, extra=extra, head_only=exchange.is_head, kind=kind
            )
        )
        self.finish(exchange)

    def truncate(self, exchange: Exchange, *, framed: bool) -> None:
        """The answer cannot be completed, and must not look finished: no last chunk, or a reset."""
        if self.current is not exchange:
            return
        exchange.keep = False
        if framed:
            self.finish(exchange)
            return
        self.current = None
        self._done_with(exchange)
        self.reset()

    def reset(self) -> None:
        """RST: the only way to tell a client that an answer without a length is cut. On a UNIX socket there is none:
        there an HTTP/1.0 client, the only kind that gets such answers, sees the connection end.
        """
        self._closing = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _done_with(self, exchange: Exchange) -> None:
        self._handler.end(exchange)  # which looks at its body
        if exchange.counted:
            self._handler.budget.give(exchange.owner, exchange.counted)
        exchange.body = b""

    # ---- refusing and closing

    def _refuse(self, error: LlmsupError) -> None:
        """The request cannot be understood: answer, take nothing more, close."""
        if self._closing:
            return
        self._discard = True
        self._forget_body()
        if self.current is not None or self._queue:  # earlier requests are answered first
            self._refusal = error
            self._wait(Hold.PIPELINE)
            return
        self._transport.write(self._handler.refusal(self.peer, error))
        self._linger()

    def _linger(self) -> None:
        """Close our half and let the rest of the request run out: with bytes unread, closing is a reset,
        which can take the answer from a client that is still sending (RFC 9112, 9.6).
        """
        if self._half_closed:
            self._close()
            return
        self._closing = True
        self.since = self._handler.now
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            asyncio.get_running_loop().call_later(TLS_LINGER_S, self._transport.close)
        if self._hold:
            self._transport.resume_reading()

    def _close(self) -> None:
        self._closing = self._discard = True
        self._transport.close()

    def _let_others(self) -> None:
        if not self._hold & Hold.TURN:
            self._wait(Hold.TURN)
            self._handler.soon(self._turn_over)

    def _turn_over(self) -> None:
        self._go_on(Hold.TURN)

    def wait_for_budget(self) -> None:
        self._wait(Hold.BUDGET)

    def budget_free(self) -> None:
        self.since = self._handler.now  # that nothing came was our doing
        self._go_on(Hold.BUDGET)

    def _wait(self, why: Hold) -> None:
        if not self._hold and not self._closing:
            self._transport.pause_reading()
        self._hold |= why

    def _go_on(self, why: Hold) -> None:
        if self._hold & why:
            self._hold &= ~why
            if not self._hold and not self._closing:
                self._transport.resume_reading()

    def sweep(self, now: float) -> None:
        """Once a second: who keeps us waiting too long? (FAULTS 40, 41)"""
        stands_since = self.since if self._closing else self.stalled_since
        if stands_since is not None:
            if now - stands_since > SLOW_READER_S:
                self._transport.abort()
        elif self._hold & Hold.PIPELINE:  # its end is not seen while it is not read from
            self._ask_whether_gone()
        elif self.current is not None or self._hold & ~Hold.TURN:
            self._pace = None  # it is we who hold it up
        elif self._incoming is not None:
            self._watch_pace(now)
        elif self._head_bytes > 0:
            if now - self.since > HEADER_TIMEOUT_S:
                self._refuse(RequestTimeout(f"the header took longer than {HEADER_TIMEOUT_S:g} s"))
        elif now - self.since > KEEP_ALIVE_S:
            self._close()

    def _watch_pace(self, now: float) -> None:
        """Of a body that is on its way."""
        if now - self.since > BODY_IDLE_TIMEOUT_S:
            self._refuse(RequestTimeout(f"no byte of the body for {BODY_IDLE_TIMEOUT_S:g} s"))
            return
        if self._pace is None or self._paced is not self._incoming:
            self._pace, self._paced = Pace(now, self._body_size), self._incoming
        crowded = self._counted > 0 and self._handler.budget.crowded
        slow = self._pace.too_slow(now, self._body_size, crowded=crowded)
        if slow is not None:
            self._refuse(RequestTimeout(slow, hint="send it faster, or in parts"))

    @property
    def unfinished(self) -> bool:
        """Whether it keeps a place with part of a request, and has shown no key."""
        if self.current is not None or self._closing or not self.reading:
            return False
        return self._incoming is None or self._incoming.client.key is None

    @property
    def refused(self) -> bool:
        """Whether it has had its last answer, and what it still sends runs out."""
        return self._closing and self._discard

    def make_way(self, error: LlmsupError) -> None:
        """Its place is needed at once: there is no time to let the rest run out."""
        if self._closing:
            self._transport.abort()
            return
        self._discard = True
        self._forget_body()
        self._transport.write(self._handler.refusal(self.peer, error))
        self._close()

    def close_idle(self) -> None:
        self._close()

    def shut(self) -> None:
        """The daemon goes: close when idle, else after the current answer."""
        if self.current is None:
            self._close()
        else:
            self.current.keep = False
