"""Much of everything: connections (FAULTS 44), tokens in one answer, letters that are not ASCII."""

import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil
import pytest

from supervisor.clock import SystemClock
from supervisor.keys import store
from supervisor.keys.key import Key
from supervisor.keys.ring import Keyring
from supervisor.proxy import places
from supervisor.types import KIB, MIB
from tests.support import rawhttp
from tests.support.proxyrig import DEADLINE_S, ProxyRig, until
from tests.support.scenarios import UNICODE
from tests.support.upstream import ScriptedUpstream

IDLE = 10_000
SPARE_DESCRIPTORS = 300


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


# ---- connections


def limit_to(rig: ProxyRig, count: int) -> None:
    rig.call(lambda: setattr(rig.pipeline, "max_connections", count))


@pytest.mark.fault(44)
def test_over_the_limit_the_longest_idle_are_closed(rig):
    limit_to(rig, 20)
    old = [rig.connect(0.2) for _ in range(10)]
    until(lambda: rig.connections() == 10, "they are there")
    sweeps = rig.sweeps
    until(lambda: rig.sweeps > sweeps + 2, "time passes")
    young = [rig.connect(0.2) for _ in range(10)]
    until(lambda: rig.connections() == 20, "the limit is reached")
    more = [rig.connect(0.2) for _ in range(5)]
    until(lambda: rig.connections() <= 20 and more[-1].ask("/health").status == 200, "all are taken")
    closed = [one.ends() for one in old]
    assert 25 - rig.connections() == sum(closed) > 0
    assert all(one.ask("/health").status == 200 for one in [*young, *more])


def test_who_is_being_answered_is_not_idle(make_rig, upstream):
    rig = make_rig(slots=4)
    limit_to(rig, 3)
    busy = [rig.connect() for _ in range(2)]
    for one in busy:
        one.post("/gated")
    until(lambda: len(upstream.begun) == 2, "both are asked")
    idle = rig.connect()
    until(lambda: rig.connections() == 3, "the limit is reached")
    assert rig.get("/health").status == 200
    assert idle.ends()
    upstream.go_on.set()
    assert [one.answer().status for one in busy] == [200, 200]


def test_when_nobody_is_idle_the_newcomer_is_told(make_rig, upstream):
    rig = make_rig(slots=2)
    limit_to(rig, 2)
    busy = [rig.connect() for _ in range(2)]
    for one in busy:
        one.post("/gated")
    until(lambda: len(upstream.begun) == 2, "both are asked")
    newcomer = rig.connect()
    answer = newcomer.ask("/echo")
    assert (answer.status, answer.json()["error"]["code"]) == (503, "queue_full")
    assert answer.header("retry-after") is not None
    assert newcomer.ends()
    assert rig.get("/health").status == 200, "some places are kept"
    upstream.go_on.set()
    assert [one.answer().status for one in busy] == [200, 200]


def test_places_are_kept_for_keys_and_beyond_them_nobody_waits_for_a_word(make_rig, upstream, tmp_path):
    path = tmp_path / store.FILE_NAME
    text = store.create(path, Key(id="", name="bob", digest=b"", created=datetime.now(UTC)))[0]
    ring = Keyring(path, SystemClock().wall)
    rig = make_rig(slots=2, keyring=ring)
    assert rig.start(ring.reload()).wait(DEADLINE_S)
    limit_to(rig, 2)
    busy = [rig.connect() for _ in range(2)]
    for one in busy:
        one.post("/gated")
    until(lambda: len(upstream.begun) == 2, "both are asked")
    known = []
    for _ in range(places.SPARE):  # one after another: an idle connection would make room for the next
        known.append(rig.connect())
        known[-1].post("/gated", headers={"Authorization": f"Bearer {text}"})
        until(lambda: len(rig.pipeline.in_flight.rows) == 2 + len(known), "it is let in")
    refused = rig.connect()
    assert refused.answer().status == 503
    assert refused.ends()
    upstream.go_on.set()
    assert {one.answer().status for one in (*busy, *known)} == {200}


def test_incomplete_requests_make_room_before_idle_connections_do(rig, monkeypatch):
    monkeypatch.setattr(places, "TIME_TO_COME_S", 0.05)
    limit_to(rig, 10)
    idle = [rig.connect() for _ in range(2)]
    assert [one.ask("/health").status for one in idle] == [200, 200]
    slow = [rig.connect() for _ in range(8)]
    for one in slow[:4]:
        one.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
    for one in slow[4:]:
        one.send(b"POST /v1/chat")
    until(lambda: len([1 for one in rig.pipeline.connections if one.unfinished]) == 8, "they are there")
    sweeps = rig.sweeps
    until(lambda: rig.sweeps > sweeps + 5, "time passes")
    for _ in range(4):
        assert rig.get("/health").status == 200
    assert [one.ask("/health").status for one in idle] == [200, 200]
    assert rig.connections() == 9


def test_one_address_keeps_a_part_of_all_places_incomplete_and_no_more(make_rig, monkeypatch):
    monkeypatch.setattr(places, "TIME_TO_COME_S", 0.02)
    monkeypatch.setattr(places, "AT_LEAST", 3)
    rig = make_rig(trusted_proxies=())
    limit_to(rig, 40)
    slow = [rig.connect() for _ in range(10)]
    for one in slow:
        one.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
    until(lambda: rig.connections() == 40 // places.PART, "the rest has gone")
    assert rig.get("/health").status == 200


def test_a_proxy_may_bring_as_many_as_there_are_places(make_rig, monkeypatch):
    monkeypatch.setattr(places, "TIME_TO_COME_S", 0.02)
    monkeypatch.setattr(places, "AT_LEAST", 3)
    rig = make_rig()
    limit_to(rig, 40)
    slow = [rig.connect() for _ in range(10)]
    for one in slow:
        one.send(b"POST /v1/chat")
    until(lambda: rig.connections() == 10, "they are there")
    sweeps = rig.sweeps
    until(lambda: rig.sweeps > sweeps + 5, "time passes")
    assert rig.connections() == 10


@contextlib.contextmanager
def as_many_descriptors_as_allowed() -> Iterator[int]:
    """How many there may be from now on; the limit is put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard if hard != resource.RLIM_INFINITY else 1 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault(44)
def test_ten_thousand_idle_connections_cost_little_and_hold_up_nobody():
    """As many of them as this machine's descriptors allow: both ends are in this process."""
    with as_many_descriptors_as_allowed() as limit, ScriptedUpstream() as upstream, ProxyRig() as rig:
        rig.ready(upstream.port)
        limit_to(rig, 2 * IDLE)
        count = min(IDLE, (limit - psutil.Process().num_fds() - SPARE_DESCRIPTORS) // 2)
        if count < 1000:
            pytest.skip(f"only {limit} descriptors: too few to show anything")
        before = rss()
        idle: list[socket.socket] = []
        try:
            idle.extend(rawhttp.connect(rig.port) for _ in range(count))  # kept, should one of them fail
            until(lambda: rig.connections() == count, "all are taken", 60)
            assert (rss() - before) / count < 16 * KIB
            assert rig.ask("/echo").status == 200
            idle[0].sendall(rawhttp.request("POST", "/echo", b"{}"))
            assert rawhttp.Reader(idle[0]).response().status == 200
        finally:
            for one in idle:
                one.close()
        until(lambda: rig.connections() == 0, "all are forgotten", 60)


# ---- tokens


def test_an_answer_of_100_000_tokens(rig):
    """One event a token; nothing of it is kept on the way."""
    tokens = 100_000
    client = rig.connect(20)
    client.post(f"/stream?events={tokens}&size=150")
    before = rss()
    seen, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        data = client.sock.recv(1 << 16)
        assert data, "the answer broke off"
        seen += (tail[-5:] + data).count(b"data: ")
        tail = (tail + data)[-50:]
    assert seen == tokens
    assert rss() - before < 16 * MIB
    assert client.ask("/echo").status == 200


# ---- letters


def test_unicode_passes_byte_for_byte(rig, upstream):
    body = json.dumps({"messages": [{"role": "user", "content": UNICODE}]}, ensure_ascii=False).encode()
    client = rig.connect()
    client.post("/echo?q=%F0%9F%99%82", body, {"X-Title": UNICODE.encode().decode("latin-1")})
    assert client.answer().json() == {"target": "/echo?q=%F0%9F%99%82", "body_bytes": len(body)}
    assert body.startswith(upstream.arrived[0].body)
    assert upstream.arrived[0].header("x-title").encode("latin-1") == UNICODE.encode()
    answer = client.ask("/unicode")
    assert answer.body == f"data: {UNICODE}\n\n".encode()


def test_a_client_named_in_unicode_has_a_name_that_is_safe_to_send(rig):
    answer = rig.ask("/echo", headers={"X-User-ID": "Zoë 🙂".encode().decode("latin-1")})
    assert answer.header("x-llmsup-client") == "user:Zo%C3%AB%20%F0%9F%99%82"


def test_letters_that_a_target_cannot_have_are_refused(rig, upstream):
    client = rig.connect()
    client.send("GET /echo?q=é HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert client.answer().status == 400
    assert upstream.begun == []
