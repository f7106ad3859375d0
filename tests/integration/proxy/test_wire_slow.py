"""Clients that keep us waiting: cut off in time, and nobody else notices (FAULTS 40, 41)."""

import pytest

from supervisor.proxy import pace, patience, wire
from supervisor.types import KIB, MIB
from tests.support import rawhttp
from tests.support.proxyrig import until


@pytest.fixture
def short(monkeypatch):
    """Limits of a tenth of a second, as long as five sweeps."""
    for name in ("HEADER_TIMEOUT_S", "BODY_IDLE_TIMEOUT_S", "KEEP_ALIVE_S", "SLOW_READER_S"):
        monkeypatch.setattr(wire, name, 0.1)


def refused(client, status: int, code: str) -> None:
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert client.ends()


@pytest.mark.parametrize(
    "beginning", [b"P", b"POST /echo HTTP/1.1\r\nHost: h\r\n", b"POST /echo HTTP/1.1\r\nHost: h\r\nX: 1\r"]
)
def test_a_header_that_does_not_end_is_a_408(short, rig, upstream, beginning):
    client = rig.connect()
    client.send(beginning)
    refused(client, 408, "request_timeout")
    assert upstream.begun == []


def trickle(client) -> None:
    """A byte now and then, until it is refused."""

    def answered() -> bool:
        try:
            client.send(b"x")
            return not client.reader.is_closed() and bool(client.reader.buffer)
        except OSError:
            return True

    until(answered, "it is refused")


def test_a_header_at_one_byte_at_a_time_is_a_408_however_steady(short, rig):
    client = rig.connect(0.01)
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nX: ")

    trickle(client)
    assert client.answer().status == 408


@pytest.mark.parametrize("part", [b"", b"ab", bytes(100_000)])
def test_a_body_that_stops_is_a_408(short, rig, upstream, part):
    client = rig.connect()
    client.send(rawhttp.request("POST", "/echo", None, {"Content-Length": "200000"}) + part)
    refused(client, 408, "request_timeout")
    assert upstream.begun == []
    assert rig.call(lambda: rig.pipeline.budget.used_bytes) == 0


def test_a_body_of_a_byte_now_and_then_is_a_408(rig, monkeypatch):
    monkeypatch.setattr(pace, "SPAN_S", 0.2)
    client = rig.connect(0.01)
    client.send(rawhttp.request("POST", "/echo", None, {"Content-Length": "200000"}) + bytes(1000))

    trickle(client)
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")


def test_who_fills_the_budget_and_sends_no_more_loses_it_to_who_waits(make_rig, monkeypatch):
    monkeypatch.setattr(pace, "CROWDED_SPAN_S", 0.2)
    rig = make_rig(budget_bytes=400_000)
    slow = [rig.connect() for _ in range(3)]
    for one in slow:
        one.send(rawhttp.request("POST", "/echo", None, {"Content-Length": "200000"}) + bytes(150_000))
    until(lambda: rig.pipeline.budget.used_bytes > 300_000, "they have all there is")
    assert rig.ask("/tokenize", b'{"content":"%b"}' % (b"y" * 100_000)).status == 200


def test_a_body_that_moves_is_waited_for(rig, monkeypatch):
    monkeypatch.setattr(wire, "BODY_IDLE_TIMEOUT_S", 0.15)
    client = rig.connect(0.01)
    client.send(
        rawhttp.request("POST", "/echo", None, {"Content-Length": str(100_000 + 25)}) + bytes(100_000)
    )
    for _ in range(25):
        client.send(b"x")
        assert not client.reader.is_closed()  # waits the socket's timeout
    client.sock.settimeout(5)
    assert client.answer().status == 200


def test_an_idle_connection_is_closed_without_a_word(short, rig):
    client = rig.connect()
    assert client.ask("/echo").status == 200
    assert client.ends()


def test_who_waits_for_an_answer_is_not_idle(short, rig):
    client = rig.connect()
    assert client.ask("/slow?s=0.3").status == 200


def test_time_spent_waiting_for_the_budget_does_not_count(make_rig, monkeypatch, upstream):
    rig = make_rig(budget_bytes=MIB)
    holder, waiter = rig.connect(), rig.connect(20)
    holder.post("/gated", bytes(2 * MIB))
    until(lambda: upstream.begun, "the budget is used up")
    waiter.send(rawhttp.request("POST", "/echo", None, {"Content-Length": str(MIB)}) + bytes(MIB - 1))
    until(lambda: rig.held() == 1, "the second is not read from")
    monkeypatch.setattr(wire, "BODY_IDLE_TIMEOUT_S", 0.2)
    before = rig.sweeps
    until(lambda: rig.sweeps > before + 15, "longer than a body may take")
    upstream.go_on.set()
    assert holder.answer().status == 200
    waiter.send(b"x")
    assert waiter.answer().status == 200


def test_a_client_that_never_reads_is_cut(short, rig, upstream):
    client = rig.connect(receive_buffer=64 * KIB)
    client.post(f"/download?bytes={100 * MIB}")
    until(lambda: upstream.left == ["/download"], "the upstream is told")
    _, was_reset = client.rest()
    assert was_reset or len(client.reader.buffer) < 100 * MIB


def test_who_does_not_read_holds_no_slot_that_others_wait_for(make_rig, monkeypatch, upstream):
    monkeypatch.setattr(patience, "UNREAD_S", 0.1)
    rig = make_rig(slots=1)
    still = rig.connect(receive_buffer=32 * KIB)
    still.post(f"/download?bytes={100 * MIB}")
    until(lambda: rig.stalled() == 1, "it stands")
    before = rig.sweeps
    until(lambda: rig.sweeps > before + 15, "longer than that")
    assert upstream.left == []  # nobody waits
    assert rig.connect(20).ask("/echo", b"me").status == 200
    assert upstream.left == ["/download"]


def test_to_read_a_little_now_and_then_is_not_enough(make_rig, monkeypatch, upstream):
    monkeypatch.setattr(patience, "UNREAD_S", 0.3)
    rig = make_rig(slots=1)
    slow = rig.connect(receive_buffer=32 * KIB)
    slow.post("/stream?events=100000000&size=20000")
    until(lambda: rig.stalled() == 1, "it stands")
    waiting = rig.connect(20)
    waiting.post("/echo", b"me")

    def read_a_little() -> bool:
        try:
            return not slow.sock.recv(4 * MIB) or bool(upstream.left)
        except OSError:
            return True

    until(read_a_little, "it is cut all the same")
    assert waiting.answer().status == 200


def test_a_client_that_never_reads_its_last_answer_is_cut_too(short, rig):
    """The answer is complete for us, and the connection only waits to be flushed."""
    client = rig.connect(receive_buffer=32 * KIB)
    client.post(f"/download?bytes={6 * MIB}", headers={"Connection": "close"})
    until(lambda: rig.connections() == 0, "the connection is given up")


def test_a_refused_client_that_never_closes_is_cut(short, rig):
    client = rig.connect()
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert client.answer().status == 400
    until(lambda: rig.connections() == 0, "the connection is given up")


def test_others_do_not_notice(short, rig):
    slow = [rig.connect() for _ in range(20)]
    for client in slow:
        client.send(b"POST /echo HTTP/1.1\r\nHo")
    quick = rig.connect()
    assert [quick.ask("/echo").status for _ in range(50)] == [200] * 50
    for client in slow:
        refused(client, 408, "request_timeout")
