"""Requests in every legal form are answered, in order, and reach the upstream in one form (FAULTS 42)."""

import hashlib
import random

import pytest

from tests.support import rawhttp
from tests.support.proxyrig import until

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_keep_alive_uses_one_connection_on_both_sides(rig, upstream):
    client = rig.connect()
    assert [client.ask("/echo").status for _ in range(5)] == [200] * 5
    assert {request.connection for request in upstream.arrived} == {1}


def test_fifty_pipelined_requests_are_answered_in_order(rig, upstream):
    client = rig.connect()
    client.send(b"".join(rawhttp.request("POST", f"/echo?i={i}", b"{}") for i in range(50)))
    targets = [client.answer().json()["target"] for _ in range(50)]
    assert targets == [f"/echo?i={i}" for i in range(50)]
    assert client.ask("/echo").status == 200


def test_pipelined_streams_and_whole_answers_keep_their_order(rig):
    client = rig.connect()
    for path in ("/stream?events=5&s=0.002", "/echo", "/stream?events=3&s=0.002", "/health"):
        client.send(rawhttp.request("GET", path))
    first, second, third, fourth = (client.answer() for _ in range(4))
    assert [len(first.events()), len(third.events())] == [5, 3]
    assert second.json()["target"] == "/echo"
    assert fourth.json()["status"] == "ok"


def test_a_request_dribbled_in_pieces_arrives_whole(rig, upstream):
    client = rig.connect()
    raw = rawhttp.request("POST", "/echo", b"z" * 900)
    for i in range(0, len(raw), 7):
        client.send(raw[i : i + 7])
    assert client.answer().status == 200
    assert upstream.arrived[0].body_bytes == 900


def test_a_chunked_upload_arrives_with_a_length_instead(rig, upstream):
    client = rig.connect()
    client.send(CHUNKED + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert client.answer().status == 200
    [request] = upstream.arrived
    assert request.body == b"hello world"
    assert request.header("content-length") == "11"
    assert request.header("transfer-encoding") is None
    assert request.header("x-trailer") is None


def test_a_chunked_upload_of_a_mebibyte_arrives_intact(rig, upstream):
    body = random.Random(1).randbytes(1 << 20)
    pieces = [body[i : i + 5000] for i in range(0, len(body), 5000)]
    client = rig.connect()
    client.send(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")
    assert client.answer().status == 200
    assert upstream.arrived[0].sha256 == hashlib.sha256(body).hexdigest()


def test_an_empty_chunked_upload_is_an_empty_body(rig, upstream):
    client = rig.connect()
    client.send(CHUNKED + b"0\r\n\r\n")
    assert client.answer().status == 200
    assert upstream.arrived[0].header("content-length") == "0"


def test_expect_continue_is_answered_by_the_proxy(rig, upstream):
    client = rig.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert client.reader.head().status == 100
    client.send(b"hello")
    assert client.answer().status == 200
    assert upstream.arrived[0].header("expect") is None


def test_a_head_request_gets_the_head_only(rig, upstream):
    client = rig.connect()
    client.send(rawhttp.request("HEAD", "/echo"))
    answer = client.answer(head_only=True)
    assert answer.status == 200
    assert int(answer.header("content-length")) > 0
    assert client.ask("/echo").status == 200
    assert {request.connection for request in upstream.arrived} == {1}


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_a_head_request_for_an_own_answer_gets_the_head_only(rig, path):
    client = rig.connect()
    client.send(rawhttp.request("HEAD", path))
    assert int(client.answer(head_only=True).header("content-length")) > 0
    assert client.ask("/echo").status == 200


def test_answers_without_a_body_keep_the_connection(rig):
    client = rig.connect()
    statuses = []
    for path in ("/no_content", "/not_modified", "/echo"):
        client.get(path)
        statuses.append(client.answer().status)
    assert statuses == [204, 304, 200]


def test_an_http10_client_gets_a_length_and_the_end_of_the_connection(rig):
    client = rig.connect()
    client.send(b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    assert client.answer().json()["body_bytes"] == 2
    assert client.ends()


def test_an_http10_client_gets_a_stream_without_chunks(rig):
    client = rig.connect()
    client.send(b"POST /stream?events=3&s=0.002 HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    answer, was_reset = client.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert not was_reset


def test_what_follows_a_last_request_is_not_served(rig, upstream):
    """HTTP/1.0 with keep-alive is closed all the same, and `Connection: close` says it was the last one."""
    for first in (
        b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ):
        client = rig.connect()
        client.send(first + rawhttp.request("POST", "/echo?second", b"{}"))
        assert client.answer().status == 200
        assert client.ends()
    assert upstream.arrived == []


@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_intact(rig, upstream, framing):
    """Java's HttpClient offers h2c with its first request."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    client = rig.connect()
    if framing == "chunked":
        client.send(rawhttp.request("POST", "/echo", None, offer | {"Transfer-Encoding": "chunked"}))
        client.send(b"5\r\nhello\r\n0\r\n\r\n")
    else:
        client.send(rawhttp.request("POST", "/echo", b"hello" if framing == "length" else None, offer))
    assert client.answer().status == 200
    assert client.ask("/echo").status == 200
    first = upstream.arrived[0]
    assert first.body == (b"" if framing == "none" else b"hello")
    assert first.header("upgrade") is first.header("http2-settings") is first.header("connection") is None


def test_an_offer_of_another_protocol_in_one_piece_with_the_next_request(rig, upstream):
    offer = {"Connection": "Upgrade", "Upgrade": "websocket"}
    client = rig.connect()
    client.send(
        rawhttp.request("POST", "/echo?1", b"hello", offer) + rawhttp.request("POST", "/echo?2", b"ab")
    )
    assert [client.answer().json()["body_bytes"] for _ in range(2)] == [5, 2]
    assert upstream.targets() == ["/echo?1", "/echo?2"]


def test_an_offer_with_close_is_the_last_request(rig):
    client = rig.connect()
    client.send(rawhttp.request("POST", "/echo", b"hi", {"Connection": "Upgrade, close", "Upgrade": "h2c"}))
    assert client.answer().status == 200
    assert client.ends()


def test_absolute_form_is_made_a_path(rig, upstream):
    client = rig.connect()
    client.send(b"GET http://other/echo?a=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.answer().json()["target"] == "/echo?a=1"
    assert upstream.arrived[0].header("host").startswith("127.0.0.1:")


# ---- half-close


def test_a_client_that_has_closed_its_half_is_answered(rig):
    client = rig.connect()
    client.post("/slow?s=0.15")
    client.half_close()
    assert client.answer().status == 200
    assert client.ends()


def test_a_client_that_has_closed_its_half_gets_all_it_pipelined(rig):
    client = rig.connect()
    client.post("/slow?s=0.05")
    client.post("/stream?events=3&s=0.01")
    client.get("/health")
    client.half_close()
    assert [client.answer().status for _ in range(3)] == [200, 200, 200]
    assert client.ends()


@pytest.mark.parametrize(
    "unfinished", [b"", b"POST /ec", b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab"]
)
def test_an_end_before_a_whole_request_is_the_end(rig, upstream, unfinished):
    client = rig.connect()
    client.send(unfinished)
    client.half_close()
    assert client.ends()
    until(lambda: rig.connections() == 0, "the connection is forgotten")
    assert upstream.arrived == []


def test_an_unfinished_request_behind_a_whole_one_does_not_keep_the_connection(rig):
    client = rig.connect()
    client.post("/slow?s=0.05")
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab")
    client.half_close()
    assert client.answer().status == 200
    assert client.ends()
