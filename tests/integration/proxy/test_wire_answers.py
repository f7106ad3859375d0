"""Legal answers of every form pass unharmed; what follows an answer is never another one (FAULTS 51)."""

import time

import pytest

from supervisor.proxy import upstream as upstream_module
from tests.support.proxyrig import until


@pytest.mark.parametrize("path", ["/interim_continue", "/interim_hints"])
def test_interim_answers_are_swallowed(rig, path):
    client = rig.connect()
    client.post(path)
    assert client.reader.head().status == 200


def test_head_and_chunks_dribbled_byte_by_byte(rig):
    client = rig.connect()
    assert client.ask("/dribble").body == b"hello0123456789"
    assert client.ask("/echo").status == 200


def test_payload_that_looks_like_the_last_chunk(rig):
    client = rig.connect()
    assert client.ask("/looks_final").body == b"a0\r\n\r\n0\r\n\r\nend"
    assert client.ask("/echo").status == 200


def test_trailers_do_not_desynchronise(rig):
    client = rig.connect()
    answer = client.ask("/trailers", headers={"TE": "trailers"})
    assert (answer.body, answer.complete) == (b"hello", True)
    assert client.ask("/echo").status == 200


def test_a_close_delimited_answer_ends_with_its_connection(rig):
    client = rig.connect()
    answer = client.ask("/until_close")
    assert (answer.body, answer.complete) == (b"until-eof", True)
    assert answer.header("connection") == "close"
    assert not answer.was_reset


def test_a_connection_the_child_closes_is_not_used_again(rig, upstream):
    client = rig.connect()
    assert [client.ask("/last_one").status for _ in range(3)] == [200] * 3
    assert [request.connection for request in upstream.arrived] == [1, 2, 3]


def test_an_error_of_the_childs_own_is_passed_on(rig):
    client = rig.connect()
    answer = client.ask("/server_error")
    assert (answer.status, answer.body) == (500, b"oh!")
    assert rig.pokes == []
    assert client.ask("/echo").status == 200


@pytest.mark.parametrize("path", ["/surplus_length", "/surplus_length_later"])
def test_surplus_after_a_whole_answer_is_dropped_and_its_connection_too(rig, upstream, path):
    client = rig.connect()
    answer = client.ask(path)
    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    until(lambda: not upstream.open, "the connection with the surplus is closed")
    assert client.ask("/echo?second").json()["target"] == "/echo?second"
    assert client.reader.buffer == b""
    assert [request.connection for request in upstream.arrived] == [1, 2]


def test_surplus_behind_the_last_chunk_never_reads_as_an_answer(rig, upstream):
    client = rig.connect()
    client.post("/surplus_chunked")
    client.post("/echo?second")
    everything, _ = client.rest()
    assert b"EVIL" not in everything
    assert b"data: 1" in everything
    assert everything.count(b"HTTP/1.1 200") <= 2
    assert rig.ask("/echo?third").json()["target"] == "/echo?third"


def test_a_line_break_too_many_behind_the_last_chunk_is_not_passed_on(rig):
    client = rig.connect()
    assert not client.ask("/surplus_line_break").complete
    assert client.ends()


def test_idle_connections_to_the_child_are_dropped_before_it_does_that(rig, upstream, monkeypatch):
    monkeypatch.setattr(upstream_module, "IDLE_S", 0.08)
    client = rig.connect()
    client.ask("/echo")
    assert len(upstream.open) == 1
    until(lambda: not upstream.open, "the idle connection is closed")
    assert rig.idle() == 0
    assert client.ask("/echo").status == 200


def test_a_large_event_stream_passes_quickly(rig):
    """No latency per chunk: 3,000 events in well under a second."""
    before = time.monotonic()
    answer = rig.ask("/stream?events=3000")
    assert answer.complete
    assert len(answer.events()) == 3000
    assert time.monotonic() - before < 3
