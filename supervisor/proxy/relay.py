"""8 Stream it back: llama-server's answer, passed on as it comes.

The bytes of a body go through unframed: with a Content-Length they are counted, in chunked framing
llhttp watches for the end (and for where chunks end, so that an error event can be put in between).
Nothing is held back and nothing is allocated per chunk that could be reused.

Three ends are told apart: complete; broken before the first byte went to the client (the request is
asked again by `Upstream`); broken after it (the client must see that it is cut).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from httptools import HttpParserError, HttpResponseParser

from supervisor.errors import LlmsupError, UpstreamFailed
from supervisor.proxy import answers
from supervisor.proxy.headers import MAX_HEAD_BYTES, Framing, ResponseHead, read_response
from supervisor.proxy.inflight import Exchange

# What is fed to llhttp in place of the head, which is read by `headers`.
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_BODILESS = frozenset({204, 304})
_TOO_MANY = b"\r\n\r\n\r\n"  # the last chunk ends in two line breaks; more are surplus, which llhttp skips
_NO_HEAD = ResponseHead(0, b"", b"", Framing.UNTIL_CLOSE, 0, keep=False, event_stream=False)


def _nowhere(_: bytes) -> None:
    """Where an answer goes while there is none."""


class _Body:
    """llhttp's callbacks for an answer whose chunks are undone (the client speaks HTTP/1.0)."""

    __slots__ = ("_relay", "pieces")

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self.pieces: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self._relay.on_message_complete()


class Relay(asyncio.Protocol):
    """One answer after the other on one connection to llama-server. `Upstream` says whose they are.

    ``last`` is the newest block of an answer: a change of it is progress, and its end tells whether
    a cut fell between two events.
    """

    __slots__ = (
        "_buffer",
        "_ended",
        "_head",
        "_left",
        "_parser",
        "_phase",
        "_surplus",
        "_transport",
        "_write",
        "exchange",
        "last",
    )

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.last = b""
        self._transport: Any = None
        self._write: Callable[[bytes], None] = _nowhere
        self._phase: Callable[[bytes], None] = self._unexpected
        self._buffer = b""
        self._head: ResponseHead = _NO_HEAD
        self._left = 0
        self._ended = self._surplus = False
        self._parser: HttpResponseParser | None = None

    # ---- what `Upstream` does with the outcome

    def completed(self, *, reusable: bool) -> None:
        """The answer has been passed on whole; ``reusable``: so may be the connection."""
        raise NotImplementedError

    def broken(self, error: LlmsupError) -> None:
        """What came is not an answer."""
        raise NotImplementedError

    # ---- bytes in

    def data_received(self, data: bytes) -> None:
        self._phase(data)

    def expect_answer(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.last = self._buffer = b""
        self._head = _NO_HEAD
        self._write = exchange.connection.write
        self._phase = self._read_head

    @property
    def answer_begun(self) -> bool:
        """Whether any byte of the current answer has come."""
        return self._head is not _NO_HEAD or bool(self._buffer)

    def _unexpected(self, data: bytes) -> None:
        """Bytes nobody asked for must never become somebody's answer."""
        self._transport.abort()

    def _read_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES or (len(data) >= 7 and not data.startswith(b"HTTP/1.")):
                    self.broken(UpstreamFailed("llama-server's answer is not HTTP/1.x"))
                else:
                    self._buffer = data
                return
            if data[9:10] != b"1":
                break
            data = data[end + 4 :]  # 1xx: `Expect` was answered by us
        self._buffer = b""
        try:
            head = read_response(data[:end])
        except UpstreamFailed as exc:
            self.broken(exc)
            return
        self._begin(head, data[end + 4 :])

    def _begin(self, head: ResponseHead, body: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None  # noqa: S101  the phase is only entered with one
        self._head = head
        lines = head.lines
        length = 0 if exchange.is_head or head.status in _BODILESS else head.length
        if exchange.is_head or head.status in _BODILESS or head.framing is Framing.LENGTH:
            self._left = length
            self._phase = self._counted
        elif head.framing is Framing.UNTIL_CLOSE:
            exchange.keep = False
            self._phase = self._until_close
        else:
            lines = self._begin_chunked(exchange)
        exchange.answering = True
        text = b"%b\r\n%b%b\r\n" % (
            lines,
            answers.labels(exchange.id, exchange.client.label, exchange.attempts - 1, exchange.queue_ms),
            b"" if exchange.keep else b"Connection: close\r\n",
        )
        if self._phase == self._counted and len(body) == length:  # the usual case: one write, done
            self._write(text + body)
            self.completed(reusable=head.keep)
            return
        self._write(text)
        if body:
            self._phase(body)

    def _begin_chunked(self, exchange: Exchange) -> bytes:
        """Set up for chunks; HTTP/1.0 knows none, so there the end of the connection is the end."""
        self._ended = self._surplus = False
        if exchange.http10:
            exchange.keep = False
            undone = _Body(self)
            parser = HttpResponseParser(undone)
            self._phase = partial(self._dechunk, parser, undone)
            parser.feed_data(_CHUNKED_HEAD)
            return self._head.unframed
        if self._parser is None:
            self._parser = HttpResponseParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)
        self._phase = partial(self._chunked, self._parser.feed_data)
        return self._head.lines

    def _counted(self, data: bytes) -> None:
        left = self._left - len(data)
        if left < 0:  # surplus: whose answer it might be, nobody asks
            self._write(data[: self._left])
            self.completed(reusable=False)
            return
        self._left = left
        self.last = data
        self._write(data)
        if not left:
            self.completed(reusable=self._head.keep)

    def _chunked(self, feed: Callable[[bytes], None], data: bytes) -> None:
        try:
            feed(data)
        except HttpParserError:
            self._surplus = True
        if self._surplus or (self._ended and data.endswith(_TOO_MANY)):
            # Before the bytes go out: they might read as another answer.
            self._surplus = True
            self.broken(UpstreamFailed("llama-server's chunked framing is broken"))
            return
        self.last = data
        self._write(data)
        if self._ended:
            self.completed(reusable=self._head.keep)

    def _dechunk(self, parser: HttpResponseParser, undone: _Body, data: bytes) -> None:
        try:
            parser.feed_data(data)
        except HttpParserError:
            self.broken(UpstreamFailed("llama-server's chunked framing is broken"))
            return
        if undone.pieces:
            self.last = b"".join(undone.pieces)
            self._write(self.last)
            undone.pieces.clear()
        if self._ended:
            self.completed(reusable=False)

    def _until_close(self, data: bytes) -> None:
        self.last = data
        self._write(data)

    # ---- llhttp's callbacks

    def on_message_begin(self) -> None:
        self._surplus = self._ended

    def on_message_complete(self) -> None:
        self._ended = True

    # ---- a cut answer

    def cut(self, exchange: Exchange, error: LlmsupError) -> None:
        """The client has part of an answer that will not be completed: say so where that is possible."""
        head = self._head
        chunked = head.framing is Framing.CHUNKED and not exchange.http10
        # An event ends in an empty line, and in JSON a line break is always escaped: so these ends are certain.
        between = not self.last or self.last.endswith(b"\n\n\r\n" if chunked else b"\n\n")
        if head.event_stream and between and not self._surplus:
            event = answers.event_stream_error(error, exchange.id)
            self._write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
        exchange.connection.truncate(exchange, framed=chunked or head.framing is Framing.LENGTH)
