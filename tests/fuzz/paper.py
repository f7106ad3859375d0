"""The client's side of the wire on a transport of paper, and h11 reading the same bytes: no loop, no sockets."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import h11

from supervisor.errors import LlmsupError
from supervisor.proxy import answers
from supervisor.proxy.heads import Heads
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upload import BodyBudget
from supervisor.proxy.wire import ClientConnection

MAX_BODY_BYTES = 1 << 20
Asked = tuple[bytes, bytes, bytes]  # method, target, body
STATUS_LINE = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


class Paper:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None


class Clerk:
    """Answers every request at once, and keeps a list of them."""

    def __init__(self) -> None:
        self.max_body_bytes = MAX_BODY_BYTES
        self.budget = BodyBudget()
        self.heads = Heads()
        self.max_connections = 100
        self.connections: set[ClientConnection] = set()
        self.now = 0.0
        self.asked: list[Asked] = []

    def refusal(self, peer: str, error: LlmsupError) -> bytes:
        return answers.response(error.status, answers.error_body(error, b"r-1"), keep=False)

    def make_room(self, newcomer: ClientConnection) -> None:
        raise AssertionError("one connection is not too many")

    def soon(self, work: Callable[[], None]) -> None:
        work()

    def look(self, exchange: Exchange) -> None:
        """Everybody may ask anything."""

    def spared(self, exchange: Exchange) -> None:
        raise AssertionError("there are places enough")

    def begin_spare(self, exchange: Exchange) -> None:
        raise AssertionError("there are places enough")

    def turn_away(self, exchange: Exchange, error: LlmsupError) -> None:
        raise AssertionError("nobody is turned away")

    def begin(self, exchange: Exchange) -> None:
        self.asked.append((exchange.method, exchange.target, exchange.body))
        exchange.connection.answer(exchange, 200, b"%d" % len(self.asked))

    def cancel(self, exchange: Exchange) -> None:
        raise AssertionError("nothing takes time here")

    def end(self, exchange: Exchange) -> None:
        pass


class Served(NamedTuple):
    asked: list[Asked]
    written: bytes
    closed: bool


def served(pieces: Iterable[bytes], look: Callable[[ClientConnection], None] = lambda _: None) -> Served:
    """What a connection makes of these pieces; ``look`` is called after each."""
    clerk, paper = Clerk(), Paper()
    connection = ClientConnection(clerk)
    connection.connection_made(paper)  # type: ignore[arg-type]  # as much of a transport as is used
    for piece in pieces:
        connection.data_received(piece)
        look(connection)
    connection.connection_lost(None)
    assert clerk.budget.used_bytes == 0
    assert not clerk.connections
    return Served(clerk.asked, paper.written, paper.closed)


def cut(raw: bytes, places: Iterable[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in places})
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True) if a < b]


@dataclass
class Read:
    """What h11 finds: the requests, and its objection to what follows them (None: it has none)."""

    asked: list[Asked] = field(default_factory=list)
    objection: str | None = None
    last: bool = False  # it would close after the last one


def read_by_h11(raw: bytes) -> Read:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(raw)
    read = Read()
    head, body = None, b""
    try:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return read
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                read.asked.append((head.method, head.target, body))
                status = 405 if head.method == b"CONNECT" else 200  # a tunnel would be the end of HTTP
                server.send(h11.Response(status_code=status, headers=[("Content-Length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is h11.MUST_CLOSE:
                    read.last = True
                    return read
                server.start_next_cycle()
    except h11.RemoteProtocolError as exc:
        read.objection = str(exc)
        return read
