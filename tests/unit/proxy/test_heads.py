"""`proxy.heads`: what is recognised is what was read before, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.headers import RequestFields, read_request
from supervisor.proxy.heads import MAX_HEADS, Heads, KnownHead

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Y: 1\r\n\r\n"


def request(body: bytes, head: bytes = HEAD) -> bytes:
    return head % len(body) + body


def fields(*extra: tuple[bytes, bytes], length: int | None = 2) -> RequestFields:
    lines = (*extra, *(((b"Content-Length", b"%d" % length),) if length is not None else ()))
    return read_request(lines, small=True)


def learnt(data: bytes, body: bytes, known: RequestFields) -> Heads:
    heads = Heads()
    heads.learn(data, KnownHead(b"POST", b"/x", known), body)
    return heads


def test_a_head_is_known_whatever_the_length_of_its_body() -> None:
    heads = learnt(request(b"{}"), b"{}", fields())
    for body in (b"{}", b"", b"x" * 999):
        found = heads.recall(request(body))
        assert found is not None
        assert (found[0].target, found[1]) == (b"/x", body)


def test_a_head_without_a_body_is_known_without_one_only() -> None:
    data = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    heads = learnt(data, b"", fields(length=None))
    assert heads.recall(data) is not None
    assert heads.recall(data + b"x") is None
    assert heads.recall(data + data) is None


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}")[:-1],
        request(b"{}") + b"x",
        request(b"{}") * 2,
        request(b"{}").replace(b"Host: a", b"Host: b"),
        request(b"{}").replace(b"Content-Length: 2", b"Content-Length: +2"),
        request(b"{}").replace(b"Content-Length: 2", b"Content-Length:  2"),
        request(b"{}").replace(b"Content-Length: 2", b"content-length: 2"),
        request(b"{}").replace(b"POST", b"PUT"),
        request(b"{}").replace(b"\r\n\r\n", b"\n\n"),
        b"",
    ],
)
def test_anything_else_is_read(data: bytes) -> None:
    assert learnt(request(b"{}"), b"{}", fields()).recall(data) is None


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (request(b"{}"), fields((b"X-Request-Id", b"mine"))),
        (request(b"{}"), fields((b"Expect", b"100-continue"))),
        (request(b"{}"), fields((b"Transfer-Encoding", b"chunked"), length=None)),
        (request(b"{}").replace(b"X-Y: 1", b"Content-Length: 2"), fields()),
        (request(b"{}").replace(b"Content-Length: 2", b"CONTENT-LENGTH: 2"), fields()),
    ],
    ids=["a name of its own", "expect", "chunked", "two lengths", "a length in another spelling"],
)
def test_what_cannot_be_known_for_certain_is_not_learnt(data: bytes, known: RequestFields) -> None:
    assert learnt(data, b"{}", known).recall(data) is None


def test_a_length_in_a_value_is_not_the_length() -> None:
    """Were it taken for it, one request could be read as another."""
    data = request(b"{}").replace(b"X-Y: 1", b"X-Y: content-length: 2")
    heads = learnt(data, b"{}", fields())
    assert heads.recall(data.replace(b"X-Y: content-length: 2", b"X-Y: content-length: 0")) is None
    assert heads.recall(data) is not None


def test_it_is_bounded() -> None:
    heads = Heads()
    for number in range(MAX_HEADS + 10):
        data = request(b"{}").replace(b"X-Y: 1", b"X-Y: %d" % number)
        heads.learn(data, KnownHead(b"POST", b"/x", fields()), b"{}")
    assert f"{MAX_HEADS}" in repr(heads)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    heads = learnt(request(b"{}"), b"{}", fields())
    assert heads.recall(data) is None
    assert heads.recall(request(b"{}") + data) is None or not data
