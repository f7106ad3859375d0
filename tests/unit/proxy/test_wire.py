"""`proxy.wire` on a transport of paper: however bytes are cut, they are the same requests; h11 agrees."""

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import LlmsupError
from supervisor.proxy import answers
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upload import BodyBudget
from supervisor.proxy.wire import ClientConnection

Asked = tuple[bytes, bytes, bytes]


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

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None


class Clerk:
    """Answers every request at once, and keeps a list of them."""

    def __init__(self) -> None:
        self.max_body_bytes = 1 << 20
        self.budget = BodyBudget()
        self.max_connections = 100
        self.connections: set[ClientConnection] = set()
        self.now = 0.0
        self.asked: list[Asked] = []

    def refusal(self, peer: str, error: LlmsupError) -> bytes:
        return answers.response(error.status, answers.error_body(error, b"r-1"), keep=False)

    def begin(self, exchange: Exchange) -> None:
        self.asked.append((exchange.method, exchange.target, exchange.body))
        exchange.connection.answer(exchange, 200, b"%d" % len(self.asked))

    def cancel(self, exchange: Exchange) -> None:
        raise AssertionError("nothing takes time here")

    def end(self, exchange: Exchange) -> None:
        pass


def served(pieces: list[bytes]) -> tuple[list[Asked], bytes, bool]:
    clerk, paper = Clerk(), Paper()
    connection = ClientConnection(clerk)
    connection.connection_made(paper)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    assert clerk.budget.used_bytes == 0
    assert not clerk.connections
    return clerk.asked, paper.written, paper.closed


def read_by_h11(raw: bytes) -> tuple[list[Asked], bool]:
    """The requests h11 finds in it, and whether it had no objection."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    asked: list[Asked] = []
    head, body = None, b""
    try:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return asked, True
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                asked.append((head.method, head.target, body))
                server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is h11.MUST_CLOSE:
                    return asked, True
                server.start_next_cycle()
    except h11.RemoteProtocolError:
        return asked, False


TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$&'*+.^`|~", min_size=1, max_size=12
)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
TARGET = st.text("abcXYZ019-._~!$&'()*+,;=:@/?%", max_size=40).map(lambda text: "/" + text)
FRAMING = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}


@st.composite
def requests(draw) -> bytes:
    """One valid request; its end is certain without the end of the connection."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]))
    fields = [("Host", "h")] + [
        (name, value)
        for name, value in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=5))
        if name.lower() not in FRAMING
    ]
    body = b""
    match draw(st.sampled_from(["none", "length", "chunked"])):
        case "length":
            body = draw(st.binary(max_size=300))
            fields.append(("Content-Length", str(len(body))))
        case "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
            pieces = draw(st.lists(st.binary(min_size=1, max_size=80), max_size=4))
            extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
            body = (
                b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
                + b"0\r\n\r\n"
            )
    fields = draw(st.permutations(fields))
    head = f"{method} {draw(TARGET)} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    return head.encode() + b"\r\n" + body


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in places})
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True) if a < b]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(requests(), min_size=1, max_size=4).map(b"".join), st.lists(st.integers(0, 5000), max_size=12)
)
def test_however_the_bytes_are_cut_the_requests_are_the_same(raw, places):
    assert served(cut(raw, places)) == served([raw])


@settings(max_examples=60, deadline=None)
@given(requests())
def test_byte_by_byte_too(raw):
    assert served([bytes([byte]) for byte in raw]) == served([raw])


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join))
def test_h11_reads_the_same_requests(raw):
    asked, _, _ = served([raw])
    assert asked
    assert read_by_h11(raw) == (asked, True)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(requests(), min_size=1, max_size=2).map(b"".join),
    st.integers(0, 5000),
    st.sampled_from(
        [b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b"\r\n", b"\x0b", b"\x80", b"x", b"0", b"chunked"]
    ),
    st.booleans(),
)
def test_of_damaged_requests_h11_reads_the_same_or_objects(raw, place, damage, replace):
    """What both take, both take for the same thing: no smuggling between two readers."""
    place %= len(raw)
    raw = raw[:place] + damage + raw[place + replace :]
    asked, _, _ = served([raw])
    theirs, sound = read_by_h11(raw)
    if sound:
        assert asked == theirs[: len(asked)]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_no_bytes_at_all_break_it(raw, places):
    """Nothing escapes but a proper refusal, and never two."""
    try:
        asked, written, closed = served(cut(raw, places))
    except LlmsupError:
        raise AssertionError("an error of ours escaped into the event loop") from None
    if not asked:
        assert not written or (closed and written.count(b"Connection: close") == 1)


def test_who_exceeds_the_budget_with_the_last_piece_is_read_from_again():
    clerk, paper, other = Clerk(), Paper(), object()
    clerk.budget = BodyBudget(200_000)
    clerk.budget.take(other, 199_000)
    clerk.budget.complete(other, 199_000)
    connection = ClientConnection(clerk)
    connection.connection_made(paper)
    connection.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    assert len(clerk.asked) == 1
    assert paper.reading
    connection.connection_lost(None)
    clerk.budget.give(199_000)
    assert clerk.budget.used_bytes == 0
