"""Requests that two readers could understand differently are refused by the first one (FAULTS 45)."""

import re

import pytest

from tests.support import rawhttp
from tests.support.proxyrig import LOOPS, ProxyRig
from tests.support.upstream import ScriptedUpstream

STATUS_LINE = re.compile(rb"HTTP/1\.1 \d{3} ")
POST = b"POST /echo HTTP/1.1\r\nHost: h\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
END = b"Content-Length: 2\r\n\r\n{}"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "length and chunked": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "chunked and length, a request smuggled": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (5 + len(EVIL))
    + EVIL,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n{}" % (2 + len(EVIL)) + EVIL,
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "length +2": POST + b"Content-Length: +2\r\n\r\n{}",
    "length -1": POST + b"Content-Length: -1\r\n\r\n{}",
    "length 0x2": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "length 1_0": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "length huge": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "length empty": POST + b"Content-Length: \r\n\r\n",
    "coding xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding identity, chunked": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "coding gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding after a vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "coding empty": POST + b"Transfer-Encoding:\r\n" + END,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked on HTTP/1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded line": POST + b"X: a\r\n b\r\n" + END,
    "folded line hiding a coding": POST + b"X: a\r\n Transfer-Encoding: chunked\r\n" + END,
    "bare LF": b"POST /echo HTTP/1.1\nHost: h\nContent-Length: 2\n\n{}",
    "bare LF inside": POST + b"X: 1\nContent-Length: 50\r\n" + END,
    "bare LF hides a coding": POST + b"X: 1\nTransfer-Encoding: chunked\r\n" + END,
    "bare CR in a value": POST + b"X: a\rTransfer-Encoding: chunked\r\n" + END,
    "bare CR ends the head": POST + b"Content-Length: 2\r\n\r{}",
    "space before colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "tab before colon": POST + b"X\t: 2\r\n" + END,
    "NUL in a value": POST + b"X: a\x00b\r\n" + END,
    "NUL in a name": POST + b"X\x00: a\r\n" + END,
    "space in a name": POST + b"X Y: 1\r\n" + END,
    "empty name": POST + b": 1\r\n" + END,
    "no colon": POST + b"X\r\n" + END,
    "first line begins with space": b"POST /echo HTTP/1.1\r\n Host: h\r\n" + END,
    "tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the target": b"GET /a\x00b HTTP/1.1\r\nHost: h\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET /echo HTTP/1.2\r\nHost: h\r\n\r\n",
    "HTTP/0.9": b"GET /echo\r\n\r\n",
    "unknown method": b"FOOBAR /echo HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower-case method": b"post /echo HTTP/1.1\r\nHost: h\r\n" + END,
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64,
    "authority as target": b"GET h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "chunk size 0x2": CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n",
    "chunk size -1": CHUNKED + b"-1\r\nab\r\n0\r\n\r\n",
    "chunk size empty": CHUNKED + b"\r\nab\r\n0\r\n\r\n",
    "chunk size too large": CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nab\r\n0\r\n\r\n",
    "chunk size ends in LF": CHUNKED + b"2\nab\n0\n\n",
    "chunk size then space": CHUNKED + b"2 \r\nab\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"2\r\nabcd\r\n0\r\n\r\n",
    "chunk without its line break": CHUNKED + b"2\r\nab0\r\n\r\n",
    "chunk extension with bare LF": CHUNKED + b"2;\nxx\r\nab\r\n0\r\n\r\n",
    "trailer with bare LF": CHUNKED + b"0\r\nX: 1\n\r\n",
}

NOT_FOR_US = {
    "fragment in the target": b"GET /echo#x HTTP/1.1\r\nHost: h\r\n\r\n",
    "another scheme": b"GET ftp://h/echo HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "TRACE": b"TRACE /echo HTTP/1.1\r\nHost: h\r\n\r\n",
}

TOO_LARGE = {
    "200 KB value": POST + b"X: " + b"a" * 200_000 + b"\r\n" + END,
    "9 KB value": POST + b"X: " + b"a" * 9_000 + b"\r\n" + END,
    "9 KB target": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "101 fields": POST + b"".join(b"X-%d: 1\r\n" % i for i in range(100)) + END,
    "5000 fields": POST + b"".join(b"X-%d: 1\r\n" % i for i in range(5000)) + END,
    "1 MB name": POST + b"X" * 1_000_000,
    "80 fields of 1 KB": POST + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 1000) for i in range(80)) + END,
    "endless value": POST + b"X: " + b"a" * 1_000_000,
    "endless target": b"GET /" + b"a" * 1_000_000,
}


@pytest.fixture(scope="module")
def _shared_upstream():
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module", params=sorted(LOOPS))
def rig(request, _shared_upstream):
    """One for all cases: what one of them left behind, the next would find."""
    with ProxyRig(request.param) as rig:
        rig.ready(_shared_upstream.port)
        yield rig


@pytest.fixture
def upstream(rig, _shared_upstream):
    _shared_upstream.forget()
    yield _shared_upstream
    rig.check_nothing_left()


def everything(rig, raw: bytes) -> bytes:
    """What comes back for these bytes, with a sound request behind them, until the proxy closes."""
    client = rig.connect(2)
    client.send(raw + rawhttp.request("GET", "/echo?behind"))
    received, _ = client.rest()
    return received


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguity_is_a_400_and_the_end_of_the_connection(rig, upstream, raw):
    received = everything(rig, raw)
    assert received.startswith(b"HTTP/1.1 400 "), received[:200]
    assert len(STATUS_LINE.findall(received)) == 1
    assert b'"code": "bad_request"' in received
    assert b"Connection: close" in received
    assert upstream.begun == []


@pytest.mark.parametrize("raw", NOT_FOR_US.values(), ids=NOT_FOR_US.keys())
def test_what_is_clear_but_not_for_a_reverse_proxy_is_a_400(rig, upstream, raw):
    client = rig.connect()
    client.send(raw)
    assert client.answer().status == 400
    assert client.ask("/echo").status == 200
    assert upstream.targets() == ["/echo"]


@pytest.mark.parametrize("raw", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_too_large_a_header_is_a_431_and_the_end_of_the_connection(rig, upstream, raw):
    received = everything(rig, raw)
    assert received.startswith(b"HTTP/1.1 431 "), received[:200]
    assert len(STATUS_LINE.findall(received)) == 1
    assert b'"code": "headers_too_large"' in received
    assert upstream.begun == []


ENDLESS = {
    "trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX: ",
    "trailers": CHUNKED + b"0\r\n" + b"X: a\r\n" * 10,
    "chunk extension": CHUNKED + b"2;a=",
}


@pytest.mark.parametrize("raw", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_may_be_added_to_chunks_has_an_end(rig, upstream, raw):
    """llhttp has no limit for these, and what it has read of a field is kept."""
    client = rig.connect(2)
    more = b"X: %b\r\n" % (b"a" * 994) if raw.endswith(b"\n") else b"a" * 1000
    try:
        client.send(raw)
        for _ in range(2000):
            client.send(more)
    except OSError:
        pass
    received, _ = client.rest()
    assert received.startswith(b"HTTP/1.1 431 "), received[:200]
    assert upstream.begun == []


def test_an_ordinary_trailer_is_read_and_left_out(rig, upstream):
    client = rig.connect()
    client.send(CHUNKED + b"2;a=b\r\n{}\r\n0\r\nX-T: 1\r\n\r\n")
    assert client.answer().status == 200
    assert client.ask("/echo").status == 200
    assert upstream.arrived[0].body == b"{}"
    assert upstream.arrived[0].header("x-t") is None


def test_the_largest_header_llama_server_takes_passes(rig, upstream):
    fields = {f"X-{i}": "v" * 300 for i in range(90)}
    assert rig.ask("/echo", headers=fields).status == 200
    assert len([name for name, _ in upstream.arrived[0].headers if name.startswith("X-")]) == 90


def test_a_body_that_reads_like_a_request_is_a_body(rig, upstream):
    client = rig.connect()
    for method in ("GET", "POST", "DELETE"):
        client.send(rawhttp.request(method, "/echo", EVIL))
        assert client.answer().json()["body_bytes"] == len(EVIL)
    assert [request.body for request in upstream.arrived] == [EVIL[:64]] * 3


def test_requests_before_the_refused_one_are_answered_first(rig, upstream):
    client = rig.connect()
    client.post("/slow?s=0.05")
    client.post("/echo?2")
    client.send(POST + b"X Y: 1\r\n" + END)
    assert [client.answer().status for _ in range(3)] == [200, 200, 400]
    assert client.ends()
    assert upstream.targets() == ["/slow?s=0.05", "/echo?2"]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_hostile_bytes_in_pieces_are_refused_alike(rig, upstream, size):
    for name in ("length and chunked", "bare CR in a value", "folded line hiding a coding", "chunk size 0x2"):
        client = rig.connect()
        raw = REFUSED[name]
        for i in range(0, len(raw), size):
            client.send(raw[i : i + size])
        assert client.answer().status == 400, name
    assert upstream.begun == []


def test_options_star_is_asked_of_the_child(rig, upstream):
    client = rig.connect()
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.answer().status == 200
    assert upstream.targets() == ["*"]
