"""Large bodies: whole, bounded in memory, refused in time (FAULTS 41, 43)."""

import hashlib
import random
import threading

import psutil
import pytest

from supervisor.types import KIB, MIB
from tests.support import rawhttp
from tests.support.proxyrig import until
from tests.support.scenarios import BLOCK

LARGE = 50 * MIB
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def settled(value) -> int:
    """The value once it has stopped changing for a while."""
    last, same = value(), 0

    def stands() -> bool:
        nonlocal last, same
        now = value()
        last, same = now, same + 1 if now == last else 0
        return same > 60

    until(stands, "it stops")
    return last


def send_in_background(client, *pieces: bytes) -> threading.Thread:
    def send() -> None:
        try:
            for piece in pieces:
                client.send(piece)
        except OSError:
            pass  # the proxy has closed

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def head_of(path: str, length: int) -> bytes:
    return rawhttp.request("POST", path, None, {"Content-Length": str(length)})


def test_an_upload_of_50_mb(make_rig, upstream):
    rig = make_rig(max_body_bytes=LARGE)
    body = random.Random(2).randbytes(MIB) * 50
    client = rig.connect(20)
    sending = send_in_background(client, head_of("/echo", LARGE), body)
    assert client.answer().status == 200
    sending.join()
    assert upstream.arrived[0].sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("framing", ["", "&chunked=1"])
def test_a_download_of_50_mb(rig, framing):
    client = rig.connect(20)
    answer = client.ask(f"/download?bytes={LARGE}{framing}")
    assert answer.complete
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(BLOCK * (LARGE // len(BLOCK))).digest()


def test_a_client_that_stops_reading_stops_the_upstream(rig, upstream):
    total = 200 * MIB
    before = rss()
    client = rig.connect(20, receive_buffer=64 * KIB)
    client.post(f"/download?bytes={total}")
    until(lambda: upstream.sent, "the download runs")
    assert settled(lambda: upstream.sent) < 30 * MIB
    assert rss() - before < 30 * MIB
    assert rig.in_flight() == 1
    got = len(client.reader.buffer)
    while got < 40 * MIB:
        got += len(client.sock.recv(1 << 20))
    client.reset()
    until(lambda: upstream.left == ["/download"], "the upstream is told")


def test_stalled_clients_of_endless_streams_stay_bounded(rig, upstream):
    before = rss()
    clients = [rig.connect(receive_buffer=32 * KIB) for _ in range(4)]
    for client in clients:
        client.post("/stream?events=100000000&size=20000")
    until(lambda: len(upstream.begun) == 4, "all stream")
    until(lambda: rig.stalled() == 4, "all stand")
    assert rss() - before < 40 * MIB
    for client in clients:
        client.close()
    until(lambda: len(upstream.left) == 4, "the upstream is told")


def test_an_upload_the_upstream_does_not_read_stays_bounded(rig, upstream):
    total = 30 * MIB
    body = bytes(MIB)
    before = rss()
    client = rig.connect(20)
    sending = send_in_background(client, head_of("/hold_upload", total), *[body] * 30)
    until(lambda: upstream.begun, "it is sent on")
    assert rss() - before < 4 * total
    assert rig.ask("/echo").status == 200
    upstream.go_on.set()
    assert client.answer().status == 200
    sending.join()
    assert upstream.arrived[-1].body_bytes == total


def test_a_refusal_while_the_upload_still_runs_is_relayed(rig):
    answer = rig.ask("/early_413", bytes(10 * MIB))
    assert (answer.status, answer.body) == (413, b"big")


def test_pipelined_own_answers_nobody_reads_stay_bounded(rig):
    """The client sends for ever and reads nothing: at some point it is not read from any more."""
    client = rig.connect(0.3, receive_buffer=32 * KIB)
    block = rawhttp.request("GET", "/v1/models") * 1000
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * MIB:
            sent += client.sock.send(block)
    assert sent < 32 * MIB
    [connection] = rig.pipeline.connections
    assert rig.call(connection._transport.get_write_buffer_size) < 4 * MIB


# ---- too large


def refused(client, status: int, code: str) -> None:
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert answer.header("connection") == "close"
    assert client.ends()


def test_a_declared_body_over_the_limit_is_refused_before_it_is_read(make_rig, upstream):
    rig = make_rig(max_body_bytes=1000)
    client = rig.connect()
    client.send(head_of("/echo", 1001))
    refused(client, 413, "body_too_large")
    assert upstream.begun == []


def test_a_declared_body_over_the_limit_is_not_continued(make_rig):
    rig = make_rig(max_body_bytes=1000)
    client = rig.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    assert client.reader.head().status == 413


def test_a_chunked_body_over_the_limit_is_refused_before_its_end(make_rig, upstream):
    limit = 100_000
    rig = make_rig(max_body_bytes=limit)
    client = rig.connect()
    client.send(CHUNKED)
    sending = send_in_background(client, *[b"1000\r\n" + bytes(0x1000) + b"\r\n"] * (limit // 0x1000 + 2))
    refused(client, 413, "body_too_large")
    sending.join()
    assert upstream.begun == []


def test_a_body_of_exactly_the_limit_is_taken(make_rig, upstream):
    rig = make_rig(max_body_bytes=100_000)
    assert rig.ask("/echo", bytes(100_000)).status == 200
    client = rig.connect()
    client.send(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (100_000, bytes(100_000)))
    assert client.answer().status == 200


def test_a_client_that_sends_on_after_a_refusal_can_still_read_it(make_rig):
    """A reset would wipe the answer out of its receive buffer: the rest is read and dropped for a while."""
    rig = make_rig(max_body_bytes=1000)
    client = rig.connect()
    client.send(head_of("/echo", 8 * MIB))
    for _ in range(8):
        client.send(bytes(MIB))
    assert client.answer().status == 413
    client.half_close()
    assert client.ends()
    assert not client.reader.was_reset


# ---- everybody's together


def test_bodies_over_the_budget_wait_for_others_and_are_answered(make_rig, upstream):
    rig = make_rig(budget_bytes=3 * MIB, slots=2)
    clients = [rig.connect(20) for _ in range(6)]
    sendings = [send_in_background(one, head_of("/echo", 2 * MIB), bytes(2 * MIB)) for one in clients]
    assert [client.answer().status for client in clients] == [200] * 6
    for sending in sendings:
        sending.join()
    assert {request.body_bytes for request in upstream.arrived} == {2 * MIB}


def test_the_budget_bounds_what_is_held_while_requests_wait(make_rig, upstream):
    rig = make_rig(budget_bytes=3 * MIB, slots=1)
    clients = [rig.connect(20) for _ in range(8)]
    for client in clients:
        send_in_background(client, head_of("/gated", 2 * MIB), bytes(2 * MIB))
    until(lambda: upstream.begun == ["/gated"], "the first is being answered")
    held = settled(lambda: rig.call(lambda: rig.pipeline.budget.used_bytes))
    assert held <= 3 * MIB + 9 * 512 * KIB  # what each had in the air when it was told to wait
    upstream.go_on.set()
    assert [client.answer().status for client in clients] == [200] * 8


def test_a_sender_that_leaves_frees_its_part_of_the_budget(make_rig):
    rig = make_rig(budget_bytes=MIB)
    staying, leaving = rig.connect(20), rig.connect()
    leaving.send(head_of("/echo", 2 * MIB) + bytes(MIB))
    until(lambda: rig.call(lambda: rig.pipeline.budget.used_bytes) >= MIB, "it is counted")
    send_in_background(staying, head_of("/echo", 2 * MIB), bytes(2 * MIB))
    leaving.close()
    assert staying.answer().status == 200
