"""8 Stream it back: llama-server's answer, passed on as it comes.

The bytes of a body go through unframed: with a Content-Length they are counted, in chunked framing
llhttp watches for the end (and for where chunks end, so that an error event can be put in between).
Nothing is allocated per chunk that could be reused, and nothing is held back but the beginning of an event.

Three kinds of answers are more than passed on: event streams that could be continued after a death are kept
(`stream`), the continuation of one is spliced to it, and an answer that was only asked for as a stream so that
it can be stopped is assembled (`assembly`).

Three ends are told apart: complete; broken before the first byte went to the client (the request is
asked again by `Upstream`); broken after it (it is continued, or the client must see that it is cut).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from httptools import HttpParserError, HttpResponseParser

from supervisor.errors import LlmsupError, UpstreamFailed
from supervisor.proxy import answers
from supervisor.proxy.assembly import Assembly, Incomplete, TooLong, Unknown, Unsure
from supervisor.proxy.headers import MAX_HEAD_BYTES, Framing, ResponseHead, read_response
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.stream import CHUNKED_HEAD, ClientStream
from supervisor.proxy.usage import Meter

_BODILESS = frozenset({204, 304})
_TOO_MANY = b"\r\n\r\n\r\n"  # the last chunk ends in two line breaks; more are surplus, which llhttp skips
_BROKEN_CHUNKS = "llama-server's chunked framing is broken"
_NO_LAST_EVENT = "llama-server's stream ended without its last event"
NO_HEAD = ResponseHead(0, b"", b"", Framing.UNTIL_CLOSE, 0, keep=False, event_stream=False)


def _nowhere(_: bytes) -> None:
    """Where an answer goes while there is none."""


class _Body:
    """llhttp's callbacks for an answer whose chunks are undone."""

    __slots__ = ("_relay", "pieces")

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self.pieces: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_begin(self) -> None:
        self._relay.on_message_begin()

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
        self._phase: Callable[[bytes], None] = _nowhere  # until there is a connection
        self._buffer = b""
        self._head: ResponseHead = NO_HEAD
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

    def once_more(self, *, strange: bool, reusable: bool) -> None:
        """Ask the same child again, now: what came is not wrong, but cannot be used.
        ``strange``: nor will any other, for this llama-server writes streams in a way unknown here.
        """
        raise NotImplementedError

    def wants_again(self, exchange: Exchange, status: int) -> bool:
        """Whether this answer's status is one to ask again for."""
        raise NotImplementedError

    # ---- bytes in

    def data_received(self, data: bytes) -> None:
        self._phase(data)

    def expect_answer(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.last = self._buffer = b""
        self._head = NO_HEAD
        self._write = exchange.connection.write
        self._phase = self._read_head

    def untie(self) -> None:
        """The connection is over: what refers back to us goes, or a ring would wait for the collector, which comes late."""
        self._phase, self._parser = _nowhere, None

    @property
    def answer_begun(self) -> bool:
        """Whether any byte of the current answer has come."""
        return self._head is not NO_HEAD or bool(self._buffer)

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
        events = head.event_stream and head.status == 200 and head.framing is Framing.CHUNKED
        if exchange.answering:
            if not events:
                exchange.final = 400 <= head.status < 500  # to the same question the same answer would come
                self.broken(
                    UpstreamFailed(f"llama-server answered {head.status} when asked to go on with an answer")
                )
                return
            self._begin_splice(exchange)
        elif events and exchange.assembled:
            self._begin_assembly(exchange)
        elif head.status >= 400 and self.wants_again(exchange, head.status):
            refused = UpstreamFailed(f"llama-server answered {head.status}")
            refused.reason = head.status
            self.broken(refused)
            return
        else:
            self._pass_on(exchange, head, body)
            return
        if body:
            self._phase(body)

    def _labels(self, exchange: Exchange) -> bytes:
        own = answers.labels(exchange.id, exchange.client.label, exchange.attempts - 1, exchange.queue_ms)
        return own + exchange.lines if exchange.lines else own

    def _pass_on(self, exchange: Exchange, head: ResponseHead, body: bytes) -> None:
        """The head goes to the client, and the body after it as it comes."""
        exchange.meter = None  # of an answer that was cut, or could not be assembled
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
        exchange.status = head.status
        text = b"%b\r\n%b%b\r\n" % (
            lines,
            self._labels(exchange),
            b"" if exchange.keep else b"Connection: close\r\n",
        )
        if self._phase == self._counted and len(body) == length:  # the usual case: one write, done
            self.last = body
            self._write(text + body)
            self.completed(reusable=head.keep)
            return
        self._write(text)
        if body:
            self._phase(body)

    def _begin_chunked(self, exchange: Exchange) -> bytes:
        """Set up for chunks; HTTP/1.0 knows none, so there the end of the connection is the end."""
        if exchange.http10:
            exchange.keep = False
            self._undo_chunks(self._write, partial(self.completed, reusable=False))
            return self._head.unframed
        self._ended = self._surplus = False
        if self._parser is None:
            self._parser = HttpResponseParser(self)
        self._parser.feed_data(CHUNKED_HEAD)
        feed = self._parser.feed_data
        if not self._head.event_stream:
            self._phase = partial(self._chunked, feed)
            return self._head.lines
        exchange.meter = Meter(exchange.path)
        if exchange.continuable:
            exchange.stream = ClientStream(exchange)
            self._phase = partial(self._kept, feed, exchange, exchange.stream)
        else:
            self._phase = partial(self._events, feed, exchange)
        return self._head.lines

    def _undo_chunks(self, take: Callable[[bytes], None], end: Callable[[], None]) -> None:
        self._ended = self._surplus = False
        undone = _Body(self)
        parser = HttpResponseParser(undone)
        parser.feed_data(CHUNKED_HEAD)
        self._phase = partial(self._dechunk, parser, undone, take, end)

    def _begin_splice(self, exchange: Exchange) -> None:
        """The answer of an earlier generation goes on."""
        stream = exchange.stream
        assert stream is not None  # noqa: S101  who else is asked again in the middle of an answer?

        def take(data: bytes) -> None:
            stream.splice(data)
            if stream.broken is not None:
                exchange.final = True
                self.broken(UpstreamFailed(f"the answer could not be continued: {stream.broken}"))

        def end() -> None:
            if stream.spliced():
                self.completed(reusable=self._head.keep and not self._surplus)
            else:
                self.broken(UpstreamFailed(_NO_LAST_EVENT))

        self._undo_chunks(take, end)

    def _begin_assembly(self, exchange: Exchange) -> None:
        """The client has asked for one piece, which is made of these events. Nothing goes out before the end."""
        assembly = Assembly(exchange.path, exchange.asked or {})
        exchange.meter = Meter(exchange.path)

        def take(data: bytes) -> None:
            exchange.count(data)
            try:
                assembly.add(data)
            except TooLong:
                exchange.final = True
                self.broken(
                    UpstreamFailed("the answer is too long to be held in one piece", hint="stream it")
                )

        def end() -> None:
            try:
                status, body = assembly.result()
            except Unsure as why:  # asked as it was meant, it can be had for certain
                exchange.outgoing, exchange.assembled = None, False
                self.once_more(
                    strange=isinstance(why, Unknown), reusable=self._head.keep and not self._surplus
                )
                return
            except Incomplete:
                self.broken(UpstreamFailed(_NO_LAST_EVENT))
                return
            extra = self._labels(exchange)
            exchange.answering = True
            exchange.status = status
            self._write(answers.response(status, body, keep=exchange.keep, extra=extra))
            self.completed(reusable=self._head.keep and not self._surplus)

        self._undo_chunks(take, end)

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
        if not self._framed(feed, data):
            return
        self.last = data
        self._write(data)
        if self._ended:
            self.completed(reusable=self._head.keep)

    def _events(self, feed: Callable[[bytes], None], exchange: Exchange, data: bytes) -> None:
        """As `_chunked`, with its tokens counted."""
        exchange.count(data)
        self._chunked(feed, data)

    def _kept(
        self, feed: Callable[[bytes], None], exchange: Exchange, stream: ClientStream, data: bytes
    ) -> None:
        """As `_chunked`, in whole events, which are counted and kept."""
        if not self._framed(feed, data):
            return
        exchange.count(data)
        self.last = data
        if not self._ended:
            stream.pass_on(data)
        elif stream.ends(data):
            self.completed(reusable=self._head.keep)
        else:
            self.broken(UpstreamFailed(_NO_LAST_EVENT))

    def _framed(self, feed: Callable[[bytes], None], data: bytes) -> bool:
        """Whether these are chunks. If not, the answer is broken before they go out: they might read as another one."""
        try:
            feed(data)
        except HttpParserError:
            self._surplus = True
        if self._surplus or (self._ended and data.endswith(_TOO_MANY)):
            self._surplus = True
            self.broken(UpstreamFailed(_BROKEN_CHUNKS))
            return False
        return True

    def _dechunk(
        self,
        parser: HttpResponseParser,
        undone: _Body,
        take: Callable[[bytes], None],
        end: Callable[[], None],
        data: bytes,
    ) -> None:
        try:
            parser.feed_data(data)
        except HttpParserError:
            self._surplus = True
            self.broken(UpstreamFailed(_BROKEN_CHUNKS))
            return
        if undone.pieces:
            self.last = b"".join(undone.pieces)
            undone.pieces.clear()
            take(self.last)
        if self._ended and self.exchange is not None:
            end()

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
        exchange.status = error.status
        head = self._head
        chunked = head.framing is Framing.CHUNKED and not exchange.http10
        # An event ends in an empty line, and in JSON a line break is always escaped: so these ends are certain.
        between = not self.last or self.last.endswith(b"\n\n\r\n" if chunked else b"\n\n")
        if head.event_stream and between and not self._surplus:
            event = answers.event_stream_error(error, exchange.id)
            self._write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
        exchange.connection.truncate(exchange, framed=chunked or head.framing is Framing.LENGTH)
