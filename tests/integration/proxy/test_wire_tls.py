"""The port with TLS: the same wire behind it, on both event loops."""

import hashlib
import random
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

from supervisor import handshakes
from supervisor.proxy import wire
from supervisor.proxy.cors import CorsRules
from supervisor.tls import CertificateFiles, ServerTls, read_pair
from supervisor.types import KIB, MIB
from tests.support import certs, rawhttp
from tests.support.proxyrig import until


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> CertificateFiles:
    return certs.make(tmp_path_factory.mktemp("certs"), "one")


@pytest.fixture
def trust(files) -> ssl.SSLContext:
    return certs.trusting(files)


@pytest.fixture
def tls(files) -> ServerTls:
    return ServerTls(files)


@pytest.fixture
def rig(make_rig, tls):
    return make_rig(tls=tls.context)


def test_whole_answers_and_streams_on_one_connection_in_order(rig, trust, upstream):
    client = rig.connect(tls=trust)
    for _ in range(3):
        client.post("/echo", b"12345")
        client.post("/stream?events=5&s=0.002")
        client.get("/health")
    for _ in range(3):
        assert client.answer().json()["body_bytes"] == 5
        assert len(client.answer().events()) == 5
        assert client.answer().status == 200
    assert {request.connection for request in upstream.arrived} == {1}


def test_a_large_body_in_both_directions(rig, trust, upstream):
    body = random.Random(3).randbytes(8 * MIB)
    client = rig.connect(20, tls=trust)
    assert client.ask("/echo", body).status == 200
    assert upstream.arrived[0].sha256 == hashlib.sha256(body).hexdigest()
    answer = client.ask(f"/download?bytes={8 * MIB}&chunked=1")
    assert answer.complete
    assert len(answer.body) == 8 * MIB


def test_a_client_that_stops_reading_stops_the_upstream(rig, trust, upstream):
    client = rig.connect(20, receive_buffer=64 * KIB, tls=trust)
    client.post(f"/download?bytes={200 * MIB}")
    until(lambda: rig.stalled() == 1, "it stands")
    before = upstream.sent
    sweeps = rig.sweeps
    until(lambda: rig.sweeps > sweeps + 10, "ten sweeps later")
    assert upstream.sent - before < 8 * MIB
    assert upstream.sent < 40 * MIB
    client.reset()
    until(lambda: upstream.left == ["/download"], "the upstream is told")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaving_ends_the_work(rig, trust, upstream, how):
    client = rig.connect(tls=trust)
    client.post("/slow?s=9")
    until(lambda: upstream.begun == ["/slow"], "it has arrived")
    getattr(client, how)()
    until(lambda: upstream.left == ["/slow"], "the upstream is told")


def test_who_closes_half_of_a_tls_connection_has_left(rig, trust, upstream, caplog):
    client = rig.connect(tls=trust)
    client.post("/slow?s=9")
    until(lambda: upstream.begun == ["/slow"], "it has arrived")
    client.half_close()
    until(lambda: upstream.left == ["/slow"], "the upstream is told")
    until(lambda: rig.connections() == 0, "it is forgotten")
    assert caplog.messages == [], "asyncio has nothing to say about it"


def test_a_refusal_is_read_and_then_the_connection_ends(make_rig, tls, trust, monkeypatch):
    monkeypatch.setattr(wire, "TLS_LINGER_S", 0.1)
    monkeypatch.setattr(handshakes, "GOODBYE_TIMEOUT_S", 0.1)
    rig = make_rig(tls=tls.context)
    client = rig.connect(tls=trust)
    client.send(b"GET /echo HTTP/1.1\r\n\r\nGET /echo?behind HTTP/1.1\r\n")
    answer = client.answer()
    assert (answer.status, answer.header("connection")) == (400, "close")
    assert client.ends()
    until(lambda: rig.connections() == 0, "it is forgotten")


def test_a_cut_answer_without_a_length_does_not_end_cleanly(rig, trust):
    client = rig.connect(tls=trust)
    client.post("/cut_until_close")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        while True:
            if not client.sock.recv(1 << 16):
                break


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 600]
)
def test_what_is_no_handshake_gets_no_answer_and_harms_nobody(rig, trust, first, upstream):
    stranger = rig.connect()
    stranger.send(first)
    received, _ = stranger.rest()
    assert b"HTTP" not in received
    assert rig.connect(tls=trust).ask("/echo").status == 200
    assert len(upstream.begun) == 1


def test_a_handshake_that_does_not_end_is_cut(make_rig, tls, monkeypatch):
    monkeypatch.setattr(handshakes, "TIMEOUT_S", 0.1)
    stranger = make_rig(tls=tls.context).connect(2)
    stranger.send(b"\x16\x03\x01")
    assert stranger.rest()[0] == b""


def test_those_who_connect_and_say_nothing_leave_for_those_who_speak(make_rig, tls, trust, monkeypatch):
    monkeypatch.setattr(handshakes, "MOST", 8)
    monkeypatch.setattr(handshakes, "HONEST_S", 0.05)
    rig = make_rig(tls=tls.context)
    known = rig.connect(tls=trust)
    assert known.ask("/echo").status == 200
    silent = [rig.connect() for _ in range(40)]
    assert rig.connect(tls=trust).ask("/echo").status == 200
    assert known.ask("/echo").status == 200
    assert sum(one.ends() for one in silent[:30]) == 30


def test_one_address_does_not_keep_all_places_at_the_door(make_rig, tls, monkeypatch):
    monkeypatch.setattr(handshakes, "OF_ONE", 3)
    monkeypatch.setattr(handshakes, "HONEST_S", 0.0)
    rig = make_rig(tls=tls.context)
    silent = [rig.connect() for _ in range(10)]
    assert [one.ends() for one in silent[:7]] == [True] * 7


def test_a_crowd_that_does_shake_hands_is_let_in_whole(make_rig, tls, trust, monkeypatch):
    monkeypatch.setattr(handshakes, "MOST", 2)
    rig = make_rig(tls=tls.context)
    with ThreadPoolExecutor(10) as pool:
        asked = list(pool.map(lambda _: rig.connect(tls=trust).ask("/echo").status, range(30)))
    assert asked == [200] * 30


def test_http2_is_not_offered(rig, trust):
    trust.set_alpn_protocols(["h2", "http/1.1"])
    assert rig.connect(tls=trust).sock.selected_alpn_protocol() == "http/1.1"


def test_a_new_certificate_is_for_new_connections_and_the_old_ones_live(rig, tls, files, trust, tmp_path):
    fresh = certs.make(tmp_path, "two")
    old = rig.connect(tls=trust)
    assert old.ask("/echo").status == 200
    rig.call(lambda: tls.take(read_pair(fresh)))
    new = rig.connect(tls=certs.trusting(fresh))
    assert certs.common_name(new.sock) == "two"
    assert new.ask("/echo").status == old.ask("/echo").status == 200
    assert certs.common_name(old.sock) == "one"
    with pytest.raises(ssl.SSLCertVerificationError):
        rig.connect(tls=trust)


def test_cors_and_head_behave_behind_tls_too(make_rig, tls, trust):
    rules = CorsRules(origins=("*",), headers=("*",), credentials=False, max_age_s=1)
    client = make_rig(tls=tls.context, cors=rules).connect(tls=trust)
    client.send(rawhttp.request("HEAD", "/echo", None, {"Origin": "https://a"}))
    assert client.answer(head_only=True).header("access-control-allow-origin") == "*"
    assert client.ask("/echo").status == 200
