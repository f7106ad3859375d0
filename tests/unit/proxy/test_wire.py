"""`proxy.wire` on a transport of paper: however bytes are cut, they are the same requests; h11 agrees."""

import os
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy.upload import BodyBudget
from supervisor.proxy.wire import ClientConnection
from tests.fuzz.checks import check
from tests.fuzz.paper import Clerk, Paper, cut, read_by_h11, served
from tests.fuzz.parser import CORPUS

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
    theirs = read_by_h11(raw)
    assert (theirs.asked, theirs.objection) == (asked, None)


SEEDS = {path.stem: path.read_bytes() for path in sorted(CORPUS.glob("*.http"))}
DAMAGE = [
    b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b'"', b"\r\n", b"\x0b", b"\x7f", b"\x80", b"x", b"0",
    b"chunked", b"HTTP/1.1", b"1.0", b"#", b"%", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Upgrade: h2c\r\n",
]  # fmt: skip


@st.composite
def damaged(draw) -> bytes:
    """A seed of the corpus, or sound requests, with a few bytes put in, left out or replaced."""
    sound = st.lists(requests(), min_size=1, max_size=2).map(b"".join)
    raw = draw(st.one_of(st.sampled_from(list(SEEDS.values())), sound))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        raw = raw[:place] + draw(st.sampled_from(DAMAGE)) + raw[place + draw(st.integers(0, 2)) :]
    return raw


@pytest.mark.parametrize("name", SEEDS)
def test_the_corpus_holds(name):
    raw = SEEDS[name]
    check(raw, range(len(raw)))
    check(raw, [len(raw) // 3, len(raw) // 2])


def test_the_corpus_is_not_empty_and_has_both_kinds():
    taken = [bool(served([raw]).asked) for raw in SEEDS.values()]
    assert len(taken) > 50
    assert any(taken)
    assert not all(taken)


@settings(max_examples=500, deadline=None)
@given(damaged(), st.lists(st.integers(0, 5000), max_size=4))
def test_of_damaged_requests_h11_reads_the_same_or_the_reason_is_known(raw, places):
    """What both take, both take for the same thing: no smuggling between two readers."""
    check(raw, places)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_no_bytes_at_all_break_it(raw, places):
    """Nothing escapes but a proper refusal, and never two."""
    check(raw, places)


def test_who_exceeds_the_budget_with_the_last_piece_is_read_from_again():
    clerk, paper, other = (
        Clerk(),
        Paper(),
        SimpleNamespace(owner="other", wait_for_budget=list, budget_free=list),
    )
    clerk.budget = BodyBudget(200_000)
    clerk.budget.take(other, 199_000)
    clerk.budget.complete(other, 199_000)
    connection = ClientConnection(clerk)
    connection.connection_made(paper)
    connection.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    assert len(clerk.asked) == 1
    assert paper.reading
    connection.connection_lost(None)
    clerk.budget.give("other", 199_000)
    assert clerk.budget.used_bytes == 0


def test_the_peer_is_an_address_or_on_a_unix_socket_the_user_by_number():
    class Transport(Paper):
        def __init__(self, **known: object) -> None:
            super().__init__()
            self._known = known

        def get_extra_info(self, name: str) -> object:
            return self._known.get(name)

    def peer(**known: object) -> str:
        connection = ClientConnection(Clerk())
        connection.connection_made(Transport(**known))
        connection.connection_lost(None)
        return connection.peer

    ours, theirs = socket.socketpair()
    with ours, theirs:
        for unnamed in ("", b"", b"\0abstract", "/tmp/x"):
            assert peer(peername=unnamed, socket=ours) == f"uid:{os.geteuid()}"
        assert peer(peername=("192.0.2.1", 7), socket=ours) == "192.0.2.1"
    assert peer(peername="") == "unix"
