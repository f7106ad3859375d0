"""Bytes of a connection become requests: the reading half of `wire`.

llhttp (httptools) reads; what it lets through and two readers could understand differently is refused by
`headers`. A body is taken in whole, counted against everybody's budget, and its request handed on.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from supervisor.errors import BadRequest, BodyTooLarge, HeadersTooLarge, LlmsupError
from supervisor.proxy import headers
from supervisor.proxy.asked import JSON_POSTS
from supervisor.proxy.handler import Handler
from supervisor.proxy.headers import MAX_HEAD_BYTES, MEMO_BYTES
from supervisor.proxy.heads import KnownHead
from supervisor.proxy.inflight import ANONYMOUS, Exchange
from supervisor.proxy.outline import Outline
from supervisor.proxy.upload import COUNTED_FROM_BYTES

if TYPE_CHECKING:
    from supervisor.proxy.wire import ClientConnection


class RequestReader(asyncio.Protocol):
    """What a `ClientConnection` is while it reads; its other half says what is done with the requests."""

    __slots__ = (
        "_body",
        "_body_size",
        "_body_size_seen",
        "_boundary",
        "_closing",
        "_counted",
        "_discard",
        "_fields",
        "_handler",
        "_head_bytes",
        "_incoming",
        "_looked",
        "_parser",
        "_read",
        "_resume",
        "_transport",
        "_unproductive",
        "_url",
        "_whole",
        "begun",
        "owner",
        "peer",
        "since",
    )

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._incoming: Exchange | None = None
        self._resume: Exchange | None = None
        self._looked: Exchange | None = None  # the newest of which the head was judged before its body
        self._body: list[bytes] = []
        self._body_size = 0
        self._body_size_seen = 0
        self._unproductive = 0  # bytes since its last piece: chunk extensions, trailers
        self._counted = 0  # bytes of it that the budget knows of
        self._head_bytes = -1  # of a head not yet complete; -1: none is being read
        self._read = 0  # bytes of the newest read
        self._boundary = True  # the next byte begins a request, on a connection that stays open
        self._whole = b""  # the newest read, while it may be one whole request
        self._closing = False
        self._discard = False
        self.peer = ""
        self.owner = ""  # of the body that is being received, once it is counted
        self.begun = 0.0  # the newest request
        self.since = 0.0

    # ---- the other half

    def _connection(self) -> "ClientConnection":
        raise NotImplementedError

    def _body_to_come(self, exchange: Exchange) -> bool:
        """A head is complete and its body is not: whether that is wanted. If not, it has been answered."""
        raise NotImplementedError

    def _received(self, exchange: Exchange) -> None:
        """A request is complete."""
        raise NotImplementedError

    def _refuse(self, error: LlmsupError) -> None:
        """What came is no request that can be taken."""
        raise NotImplementedError

    def _let_others(self) -> None:
        """Much was read: the event loop would read on up to 32 times before it looks at anybody else (libuv)."""
        raise NotImplementedError

    # Of `upload.Sender`, for the budget of all bodies.
    def wait_for_budget(self) -> None:
        raise NotImplementedError

    def budget_free(self) -> None:
        raise NotImplementedError

    @property
    def reading(self) -> bool:
        """Whether part of a request has come."""
        return self._incoming is not None or self._head_bytes >= 0

    # ---- bytes in

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._boundary and not self._discard:
            known = self._handler.heads.recall(data)
            if known is not None and len(known[1]) <= self._handler.max_body_bytes:
                head, body = known
                self.since = self._handler.now
                exchange = Exchange(self._connection(), head.method, head.target, head.fields, self.peer)
                exchange.body = body
                self._received(exchange)
                return
            self._whole = data
        self._read = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as offer:
            rest = data[offer.args[0] :]
        except HttpParserError as exc:
            # A callback's own exception is wrapped by httptools.
            cause = exc.__context__
            self._refuse(
                cause if isinstance(cause, LlmsupError) else BadRequest("this is not valid HTTP/1.1")
            )
            return
        else:
            if self._head_bytes == 0:  # it began somewhere in these bytes; the next ones count in full
                self._head_bytes = 1
            elif self._head_bytes > 0:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(HeadersTooLarge(f"more than {MAX_HEAD_BYTES} bytes of header"))
            elif self._incoming is not None:
                self._watch_body(len(data))
            if self._incoming is not self._looked:
                self._look()
            return
        self._ignore_upgrade(
            rest
        )  # not in the handler: what fails in there would have the offer as its context

    def _look(self) -> bool:
        """Once a request, where its body does not come along with its head; whether the body is wanted."""
        self._looked = exchange = self._incoming
        return exchange is None or self._discard or self._body_to_come(exchange)

    def _watch_body(self, size: int) -> None:
        """Chunked framing lets a sender add to a body's chunks and end without limit, and llhttp has none."""
        if self._body_size != self._body_size_seen:
            self._body_size_seen = self._body_size
            self._unproductive = 0
            return
        self._unproductive += size
        if self._unproductive > MAX_HEAD_BYTES and not self._discard:
            self._refuse(HeadersTooLarge(f"more than {MAX_HEAD_BYTES} bytes between two pieces of a body"))

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
            if not rest and self._incoming is not None:
                self._look()
        if rest and not self._closing:
            self.data_received(rest)

    # ---- llhttp's callbacks

    def on_message_begin(self) -> None:
        self._boundary = False
        self._url = b""
        self._fields = []
        self._head_bytes = 0
        self.since = self.begun = self._handler.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))  # a trailer, too: nothing is made of it

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
        exchange = Exchange(self._connection(), parser.get_method(), self._url, fields, self.peer)
        exchange.http10 = version == "1.0"
        exchange.keep = not exchange.http10 and parser.should_keep_alive()
        if parser.should_upgrade():
            self._resume = exchange
        else:
            self._incoming = exchange

    def on_body(self, body: bytes) -> None:
        if self._discard:
            return
        self._body.append(body)
        self._body_size = size = self._body_size + len(body)
        self.since = self._handler.now
        if size > COUNTED_FROM_BYTES:
            self._count(size, body)

    def _count(self, size: int, piece: bytes) -> None:
        """A large body: within its own limit, and within everybody's together? And what is in it?"""
        handler, exchange = self._handler, self._incoming
        if exchange is not self._looked and not self._look():  # this piece came with the head
            return
        if size > handler.max_body_bytes:
            raise BodyTooLarge(f"the body has more than {handler.max_body_bytes} bytes")
        if not self._counted:
            known = exchange is not None and exchange.client is not ANONYMOUS
            self.owner = exchange.client.name if exchange is not None and known else self.peer
        more, self._counted = size - self._counted, size
        handler.budget.take(self, more)
        if exchange is not None:
            outline = exchange.outline
            if outline is None:
                outline = exchange.outline = Outline()
                piece = b"".join(self._body)
            outline.feed(piece)
            self._let_others()
            if outline.trouble is not None and exchange.path in JSON_POSTS:
                raise outline.trouble

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        if exchange is None or self._discard:
            return
        unlooked = exchange.fields.expect_continue and exchange is not self._looked  # it waited for no word
        if unlooked and not self._body_to_come(exchange):
            return
        self._looked = None
        body = self._body
        exchange.body = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        self._body_size = self._body_size_seen = self._unproductive = 0
        if len(exchange.body) > self._handler.max_body_bytes:
            raise BodyTooLarge(f"the body has more than {self._handler.max_body_bytes} bytes")
        if self._counted:
            exchange.counted, exchange.owner, self._counted = self._counted, self.owner, 0
            self._handler.budget.complete(self, exchange.counted)
        self._boundary = exchange.keep
        if exchange.keep and self._whole:
            head = KnownHead(exchange.method, exchange.target, exchange.fields)
            self._handler.heads.learn(self._whole, head, exchange.body)
        self._whole = b""
        self._received(exchange)

    def _forget_body(self) -> None:
        self._body, self._body_size = [], 0
        if self._counted:
            counted, self._counted = self._counted, 0
            self._handler.budget.drop(self, counted)
