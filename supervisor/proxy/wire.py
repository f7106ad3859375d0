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
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from supervisor.errors import BadRequest, BodyTooLarge, HeadersTooLarge, LlmsupError, RequestTimeout
from supervisor.proxy import answers, headers
from supervisor.proxy.handler import Handler, Hold
from supervisor.proxy.headers import MAX_HEAD_BYTES, MEMO_BYTES
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upload import COUNTED_FROM_BYTES

MAX_PIPELINED = 8
HEADER_TIMEOUT_S = 10.0
BODY_IDLE_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 75.0
SLOW_READER_S = 30.0  # also for its part in closing
PROBE_FIRST_S, PROBE_EVERY_S = 0.05, 1.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class ClientConnection(asyncio.Protocol):
    """One client's connection. ``current`` is the request being answered."""

    __slots__ = (
        "_body",
        "_body_size",
        "_closing",
        "_counted",
        "_discard",
        "_fields",
        "_half_closed",
        "_handler",
        "_head_bytes",
        "_hold",
        "_incoming",
        "_parser",
        "_queue",
        "_read",
        "_refusal",
        "_resume",
        "_transport",
        "_url",
        "current",
        "peer",
        "since",
        "stalled_since",
        "write",
    )

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._incoming: Exchange | None = None
        self._body: list[bytes] = []
        self._body_size = 0
        self._counted = 0  # bytes of it that the budget knows of
        self._head_bytes = -1  # of a head not yet complete; -1: none is being read
        self._queue: deque[Exchange] = deque()
        self._read = 0  # bytes of the newest read
        self._hold = Hold(0)
        self._closing = False
        self._discard = False
        self._half_closed = False
        self._resume: Exchange | None = None
        self._refusal: LlmsupError | None = None
        self.current: Exchange | None = None
        self.peer = ""
        self.since = 0.0
        self.stalled_since: float | None = None
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
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        handler = self._handler
        handler.connections.add(self)
        self.since = handler.now
        if len(handler.connections) > handler.max_connections:
            handler.make_room(self)

    @property
    def idle(self) -> bool:
        """Whether nothing is being asked or answered."""
        return self.current is None and self._incoming is None and self._head_bytes < 0 and not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        handler = self._handler
        handler.connections.discard(self)
        self._forget_body()
        for waiting in self._queue:
            handler.budget.give(waiting.counted)
        self._queue.clear()
        current, self.current = self.current, None
        if current is not None:
            handler.cancel(current)
            self._done_with(current)

    def eof_received(self) -> bool:
        """A client may close its half and still read (RFC 9112, 9.6). Whether it does, a probe tells.

        HTTP/1.0 knows no interim responses to probe with: there, who has closed has left.
        """
        current = self.current
        if (current is None and not self._queue) or (current is not None and current.http10):
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

    def pause_writing(self) -> None:
        self.stalled_since = self._handler.now
        self._wait(Hold.OUTPUT)
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.pause()

    def resume_writing(self) -> None:
        self.stalled_since = None
        self._go_on(Hold.OUTPUT)
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.resume()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._read = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._ignore_upgrade(data[offer.args[0] :])
        except HttpParserError as exc:
            # A callback's own exception is wrapped by httptools.
            cause = exc.__context__
            self._refuse(
                cause if isinstance(cause, LlmsupError) else BadRequest("this is not valid HTTP/1.1")
            )
        else:
            if self._head_bytes == 0:  # it began somewhere in these bytes; the next ones count in full
                self._head_bytes = 1
            elif self._head_bytes > 0:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(HeadersTooLarge(f"more than {MAX_HEAD_BYTES} bytes of header"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """llhttp stops after the head of a request that offers another protocol: offers are ignored here
        (h2c would take the connection out of our hands), so a fresh parser reads the body.
        """
        self._parser = HttpRequestParser(self)
        exchange = self._resume
        if exchange is not None:
            framing = b"Content-Length: %d\r\n" % (exchange.fields.length or 0)
            if exchange.fields.chunked:
                framing = b"Transfer-Encoding: chunked\r\n"
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
        if rest and not self._closing:
            self.data_received(rest)

    # ---- llhttp's callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = []
        self._head_bytes = 0
        self.since = self._handler.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        small = self._head_bytes == 0 and self._read <= MEMO_BYTES
        self._head_bytes = -1
        if self._resume is not None:  # the body of a request whose offer of an upgrade was ignored
            self._incoming, self._resume = self._resume, None
            return
        parser = self._parser
        version = parser.get_http_version()
        fields = headers.read_request(tuple(self._fields), small=small)
        headers.check(fields, version, self._url, self._handler.max_body_bytes)
        exchange = Exchange(self, parser.get_method(), self._url, fields, self.peer)
        exchange.http10 = version == "1.0"
        exchange.keep = not exchange.http10 and parser.should_keep_alive()
        if parser.should_upgrade():
            self._resume = exchange
        else:
            self._incoming = exchange
        if fields.expect_continue and not exchange.http10 and self.current is None:
            self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._discard:
            return
        self._body.append(body)
        self._body_size = size = self._body_size + len(body)
        self.since = self._handler.now
        if size > COUNTED_FROM_BYTES:
            self._count(size)

    def _count(self, size: int) -> None:
        """A large body: within its own limit, and within everybody's together?"""
        handler = self._handler
        self.since = handler.now
        if size > handler.max_body_bytes:
            raise BodyTooLarge(f"the body has more than {handler.max_body_bytes} bytes")
        more, self._counted = size - self._counted, size
        handler.budget.take(self, more)

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        if exchange is None or self._discard:
            return
        body = self._body
        exchange.body = body[0] if len(body) == 1 else b"".join(body)
        self._body, self._body_size = [], 0
        if len(exchange.body) > self._handler.max_body_bytes:
            raise BodyTooLarge(f"the body has more than {self._handler.max_body_bytes} bytes")
        if self._counted:
            exchange.counted, self._counted = self._counted, 0
            self._handler.budget.complete(self, exchange.counted)
        if self.current is not None or self._queue:
            self._queue.append(exchange)
            if len(self._queue) >= MAX_PIPELINED:
                self._wait(Hold.PIPELINE)
            return
        self._begin(exchange)

    # ---- one request

    def _begin(self, exchange: Exchange) -> None:
        self.current = exchange
        self._handler.begin(exchange)

    def finish(self, exchange: Exchange) -> None:
        """The answer has been handed to the transport in full."""
        if self.current is not exchange:
            return
        self.current = None
        self._done_with(exchange)
        self.since = self._handler.now
        if not exchange.keep:
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

    def answer(self, exchange: Exchange, status: int, body: bytes, extra: bytes = b"") -> None:
        """A complete answer of our own to the current request."""
        exchange.answering = True
        self.write(
            answers.response(status, body, keep=exchange.keep, extra=extra, head_only=exchange.is_head)
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
        """RST: the only way to tell a client that an answer without a length is cut."""
        self._closing = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _done_with(self, exchange: Exchange) -> None:
        if exchange.counted:
            self._handler.budget.give(exchange.counted)
        exchange.body = b""
        self._handler.end(exchange)

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
        body = answers.error_body(error, b"-")
        self._transport.write(answers.response(error.status, body, keep=False))
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
        self._transport.write_eof()
        if self._hold:
            self._transport.resume_reading()

    def _close(self) -> None:
        self._closing = self._discard = True
        self._transport.close()

    def _forget_body(self) -> None:
        self._body, self._body_size = [], 0
        if self._counted:
            counted, self._counted = self._counted, 0
            self._handler.budget.drop(self, counted)

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
        elif self.current is not None or self._hold:
            return
        elif self._incoming is not None:
            if now - self.since > BODY_IDLE_TIMEOUT_S:
                self._refuse(RequestTimeout(f"no byte of the body for {BODY_IDLE_TIMEOUT_S:g} s"))
        elif self._head_bytes > 0:
            if now - self.since > HEADER_TIMEOUT_S:
                self._refuse(RequestTimeout(f"the header took longer than {HEADER_TIMEOUT_S:g} s"))
        elif now - self.since > KEEP_ALIVE_S:
            self._close()

    def refuse(self, error: LlmsupError) -> None:
        """There is no place for this connection."""
        self._refuse(error)

    def close_idle(self) -> None:
        self._close()

    def shut(self) -> None:
        """The daemon goes: close when idle, else after the current answer."""
        if self.current is None:
            self._close()
        else:
            self.current.keep = False
