"""`proxy.relay` on paper: however llama-server's bytes are cut, the client gets the same answer."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import LlmsupError, UpstreamCrashed
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.relay import Relay
from supervisor.proxy.usage import Meter

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Desk(Relay):
    """A relay with one client, and what became of it."""

    def __init__(self, *, method: bytes = b"POST", http10: bool = False) -> None:
        super().__init__()
        self.out = b""
        self.end = ""
        connection = SimpleNamespace(write=self._take, truncate=self._truncate)
        self._transport = SimpleNamespace(abort=lambda: None)
        self.asked = Exchange(connection, method, b"/", read_request((), small=True), "")
        self.asked.id, self.asked.attempts, self.asked.http10 = b"id", 1, http10
        self.expect_answer(self.asked)

    def _take(self, data: bytes) -> None:
        self.out += data

    def _truncate(self, exchange: Exchange, *, framed: bool) -> None:
        self.end = "cut" if framed else "reset"

    def completed(self, *, reusable: bool) -> None:
        self._stop(f"complete, {'reusable' if reusable else 'used up'}")

    def broken(self, error: LlmsupError) -> None:
        self._stop(error.code)

    def _stop(self, end: str) -> None:
        assert not self.end, "it ends once"
        self.end = end
        self._phase = self._unexpected

    @property
    def body(self) -> bytes:
        return self.out.partition(b"\r\n\r\n")[2]


def relayed(pieces: list[bytes], **client: object) -> Desk:
    desk = Desk(**client)
    for piece in pieces:
        desk.data_received(piece)
    return desk


@pytest.mark.parametrize(
    ("raw", "body", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", "complete, reusable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", b"ok", "complete, used up"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", "complete, used up"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"ok",
            "complete, reusable",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1", b"ok", "complete, used up"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", "complete, reusable"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", "complete, used up"),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n", "complete, reusable"),
        (CHUNKED + b"2\r\nok\r\n0\r\nA: b\r\n\r\n", b"2\r\nok\r\n0\r\nA: b\r\n\r\n", "complete, reusable"),
        (CHUNKED + b"2\r\nok\r\n", b"2\r\nok\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok", ""),
        (b"SSH-2.0\r\n\r\n", b"", "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"", "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X" * 70_000, b"", "upstream_failed"),
    ],
)
def test_ends_of_answers(raw, body, end):
    desk = relayed([raw])
    assert (desk.body, desk.end) == (body, end)


def test_what_was_counted_of_an_answer_that_failed_is_not_of_the_next_one():
    """Asked again, it may come in one piece; its figures are not in the events of before."""
    desk = Desk()
    desk.asked.meter = Meter(b"/")
    desk.asked.meter.add(b'data: {"stop":false}\n\n')
    desk.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (desk.asked.meter, desk.asked.produced) == (None, 0)


@pytest.mark.parametrize(
    "extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL", b"x", b"\r\n", b"0\r\n\r\n"]
)
def test_surplus_behind_the_last_chunk_does_not_go_out(extra):
    desk = relayed([CHUNKED + b"2\r\nok\r\n", b"0\r\n\r\n" + extra])
    assert desk.end == "upstream_failed"
    assert desk.body == b"2\r\nok\r\n"


def test_a_head_request_has_no_body_whatever_the_framing():
    for framing in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
        desk = relayed([b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"], method=b"HEAD")
        assert desk.end == "complete, reusable"
        assert framing in desk.out


def test_http10_gets_the_chunks_undone():
    desk = relayed([CHUNKED + b"2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n"], http10=True)
    assert desk.body == b"okay!"
    assert b"chunked" not in desk.out
    assert b"Connection: close" in desk.out


@pytest.mark.parametrize(
    ("pieces", "http10", "told", "end"),
    [
        ([CHUNKED, b"9\r\ndata: 1\n\n\r\n"], False, True, "cut"),
        ([CHUNKED], False, True, "cut"),
        ([CHUNKED, b"9\r\ndata: 1\n"], False, False, "cut"),
        ([CHUNKED, b"8\r\ndata: 1\n\r\n"], False, False, "cut"),
        ([CHUNKED, b"9\r\ndata: 1\n\n\r\n"], True, True, "reset"),
        ([CHUNKED.replace(b"event-stream", b"plain"), b"2\r\n\n\n\r\n"], False, False, "cut"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], False, False, "cut"),
        ([b"HTTP/1.1 200 OK\r\n\r\nabc"], False, False, "reset"),
    ],
)
def test_a_cut_is_told_where_that_is_possible(pieces, http10, told, end):
    desk = relayed(pieces, http10=http10)
    desk.cut(desk.asked, UpstreamCrashed("it died"))
    assert (b'"code": "upstream_crashed"' in desk.out) is told
    assert desk.end == end
    assert not desk.out.endswith(b"0\r\n\r\n") or not desk.body


BODIES = st.lists(st.binary(min_size=1, max_size=60), max_size=5)


@st.composite
def raw_answers(draw) -> bytes:
    pieces = draw(BODIES)
    first = draw(st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]))
    if draw(st.booleans()):
        body = b"".join(pieces)
        return first + b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    extension = draw(st.sampled_from([b"", b";ext=1"]))
    trailer = draw(st.sampled_from([b"", b"X-T: 1\r\n"]))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return first + CHUNKED + chunks + b"0\r\n" + trailer + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(raw_answers(), st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_however_the_bytes_are_cut_the_answer_is_the_same(raw, places, http10):
    places = sorted({place % (len(raw) + 1) for place in places})
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True) if a < b]
    whole, cut = relayed([raw], http10=http10), relayed(pieces, http10=http10)
    assert (cut.out, cut.end) == (whole.out, whole.end)
    assert whole.end.startswith("complete")
