"""Answers that break: asked again before the first byte, honestly cut after it (FAULTS 2, 3, 48, 49, 52)."""

import json

import pytest

from supervisor.proxy import patience as patience_module
from supervisor.proxy import upstream as upstream_module
from supervisor.proxy.bounds import RetryBounds
from tests.support.proxyrig import until, view
from tests.support.upstream import ScriptedUpstream

# ---- cut after the first byte: never looks finished


@pytest.mark.parametrize("path", ["/cut_between_events", "/cut_between_events_by_reset", "/cut_after_head"])
def test_a_stream_cut_between_events_ends_in_an_error_event(rig, path):
    answer = rig.ask(path)
    assert not answer.complete
    error = json.loads(answer.events()[-1])["error"]
    assert (error["code"], error["source"]) == ("upstream_crashed", "llmsup")
    assert "[DONE]" not in answer.events()


@pytest.mark.parametrize("path", ["/cut_in_chunk", "/bad_chunk"])
def test_a_stream_cut_inside_a_chunk_just_ends(rig, path):
    answer = rig.ask(path)
    assert not answer.complete
    assert answer.chunks == [b"data: 1\n\n"]
    assert b"error" not in answer.body


@pytest.mark.parametrize("path", ["/cut_between_events", "/cut_in_chunk", "/cut_length", "/bad_chunk"])
def test_after_a_cut_answer_the_connection_ends(rig, upstream, path):
    client = rig.connect()
    client.post(path)
    client.post("/echo")
    everything, _ = client.rest()
    assert everything.count(b"HTTP/1.1 ") == 1
    assert not everything.endswith(b"0\r\n\r\n")


def test_an_answer_shorter_than_promised_is_seen_to_be(rig):
    answer = rig.ask("/cut_length")
    assert (answer.complete, len(answer.body)) == (False, 500)


def test_a_close_delimited_answer_that_broke_ends_in_a_reset(rig):
    answer = rig.ask("/cut_until_close")
    assert (answer.complete, answer.was_reset) == (False, True)


def test_an_http10_client_of_a_cut_stream_gets_a_reset(rig):
    client = rig.connect()
    client.send(b"POST /cut_in_chunk HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    body, was_reset = client.rest()
    assert was_reset
    assert b"data: 1\n\n" in body


# ---- broken before the first byte: asked again


@pytest.mark.parametrize("path", ["/nothing", "/garbage", "/bad_status", "/two_lengths", "/endless_head"])
def test_what_is_no_answer_is_asked_for_again_and_then_a_502(make_rig, upstream, path):
    rig = make_rig(retry=RetryBounds(max_retries=2, delay_s=0.05))
    answer = rig.ask(path)
    assert answer.status == 502
    assert answer.json()["error"]["code"] in {"upstream_failed", "upstream_crashed"}
    assert upstream.targets() == [path] * 3
    assert rig.pokes == [("demo", 1)] * 2
    assert rig.ask("/echo").status == 200


def test_a_dead_child_is_not_asked_again_until_it_has_shown_that_it_lives(rig, upstream):
    rig.answers_pokes = False
    client = rig.connect()
    client.post("/nothing")
    until(rig.waiting, "the request waits")
    other = rig.connect()
    other.post("/echo")
    until(lambda: rig.waiting() == 2, "so does the next one")
    assert upstream.targets() == ["/nothing"]
    rig.state("BACKOFF")
    rig.ready(upstream.port, generation=2)
    assert other.answer().status == 200


def test_a_refused_connection_waits_for_the_next_generation(rig, upstream):
    with ScriptedUpstream() as dead:
        pass
    rig.answers_pokes = False
    rig.ready(dead.port, generation=2)
    client = rig.connect()
    client.post("/echo")
    until(lambda: rig.pokes, "the instance is asked whether it lives")
    assert rig.pokes == [("demo", 2)]
    rig.state("BACKOFF")
    rig.ready(upstream.port, generation=3)
    answer = client.answer()
    assert answer.status == 200
    assert answer.header("x-llmsup-retries") == "1"


def test_a_child_that_takes_connections_and_drops_them_is_asked_again(make_rig, upstream):
    """The end of a connection may be seen before its beginning has been dealt with."""
    rig = make_rig(retry=RetryBounds(max_retries=1, delay_s=0.05))
    upstream.mute = True
    assert [rig.ask("/echo").status for _ in range(20)] == [502] * 20
    upstream.mute = False
    assert rig.ask("/echo").status == 200


def test_a_pooled_connection_found_closed_is_replaced_silently(rig, upstream):
    client = rig.connect()
    client.ask("/dies_when_reused")
    upstream.die_when_reused = 1
    answer = client.ask("/dies_when_reused")
    assert answer.status == 200
    assert answer.header("x-llmsup-retries") == "0"
    assert rig.pokes == []


def test_a_pooled_connection_is_replaced_once_only(make_rig, upstream):
    rig = make_rig(retry=RetryBounds(max_retries=0, delay_s=0.05))
    client = rig.connect()
    client.ask("/echo")
    client.post("/nothing")
    assert client.answer().status == 502
    assert upstream.targets() == ["/echo", "/nothing", "/nothing"]


# ---- a new generation


def test_a_clients_connection_survives_the_childs_restart(rig, upstream):
    client = rig.connect()
    assert client.ask("/echo").status == 200
    rig.abort(1)
    rig.state("BACKOFF")
    with ScriptedUpstream() as reborn:
        rig.ready(reborn.port, generation=2)
        assert client.ask("/echo").status == 200
        assert reborn.targets() == ["/echo"]
        rig.abort(2)


def test_the_end_of_a_generation_before_the_first_byte_is_only_latency(rig, upstream):
    client = rig.connect()
    client.post("/gated")
    until(lambda: upstream.begun == ["/gated"], "the child has the request")
    rig.abort(1)
    rig.state("BACKOFF")
    upstream.go_on.set()
    rig.ready(upstream.port, generation=2)
    answer = client.answer()
    assert answer.status == 200
    assert answer.header("x-llmsup-retries") == "1"


def test_the_end_of_a_generation_in_a_stream_is_told(rig):
    client = rig.connect()
    client.post("/stream?events=1000&s=0.005")
    client.reader.head()
    assert client.reader.chunk()
    rig.abort(1)
    everything, _ = client.rest()
    assert b"upstream_crashed" in everything
    assert not everything.endswith(b"0\r\n\r\n")


# ---- silence


def test_an_answer_that_stands_still_is_given_up_when_the_child_has_shown_that_it_lives(
    make_rig, upstream, monkeypatch
):
    monkeypatch.setattr(upstream_module, "IDLE_S", 60.0)
    rig = make_rig(silence_s=0.1)
    client = rig.connect()
    client.post("/slow?s=5")
    until(lambda: rig.call(lambda: rig.admission.gates["demo"].standing(1)).in_flight == 1, "it is watched")
    until(lambda: rig.call(lambda: rig.admission.gates["demo"].standing(1)).quiet_s > 0.2, "it stands still")
    rig.publish(view(port=upstream.port, suspect="stands still"))
    assert rig.in_flight() == 1
    rig.publish(view(port=upstream.port, checks=1))
    answer = client.answer()
    assert answer.status == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    until(lambda: upstream.left == ["/slow"], "the child is told")
    assert upstream.targets() == ["/slow?s=5"]


def test_nothing_is_sent_to_a_suspect_and_everything_once_it_is_cleared(make_rig, upstream):
    rig = make_rig()
    rig.publish(view(port=upstream.port, suspect="stands still"))
    client = rig.connect()
    client.post("/echo")
    until(lambda: rig.waiting() == 1, "it waits")
    assert upstream.targets() == []
    rig.publish(view(port=upstream.port))
    assert client.answer().status == 200


def test_one_that_hangs_and_is_left_alone_is_not_waited_for_without_end(make_rig, upstream, monkeypatch):
    monkeypatch.setattr(patience_module, "longest_trial_s", lambda _: 0.3)
    rig = make_rig(silence_s=0.1)
    client = rig.connect()
    client.post("/slow?s=5")
    until(lambda: rig.in_flight() == 1, "it is inside")
    rig.publish(view(port=upstream.port, suspect="hangs, and is left alone"))
    assert client.answer().status == 504


def test_a_slow_answer_that_moves_is_waited_for(make_rig):
    rig = make_rig(silence_s=0.1)
    answer = rig.ask("/stream?events=15&s=0.02")
    assert answer.complete
    assert len(answer.events()) == 15
