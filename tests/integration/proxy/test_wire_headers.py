"""Header fields: what reaches the upstream, what reaches the client, and what never does."""

import json
import re

import pytest

from supervisor.proxy.bounds import RetryBounds
from tests.support.proxyrig import KEY

SECRETS = {
    "Authorization": "Bearer the-clients",
    "X-Api-Key": "the-clients",
    "X-Conversation-Id": "c1",
    "Cookie": "a=1",
    "Proxy-Authorization": "Basic eA==",
    "X-User-ID": "ann",
    "X-Session-ID": "s1",
    "X-Forwarded-For": "198.51.100.7",
    "Forwarded": "for=198.51.100.7",
}


def test_ordinary_fields_pass_in_both_directions(rig, upstream):
    client = rig.connect()
    answer = client.ask("/echo", headers=[("X-F", "1"), ("X-F", "2"), ("Accept", "*/*")])
    sent = upstream.arrived[0].headers
    assert [value for name, value in sent if name == "X-F"] == ["1", "2"]
    assert ("Accept", "*/*") in sent
    assert [value for name, value in answer.headers if name == "X-A"] == ["1", "2"]
    assert answer.header("set-cookie") is None  # a child has no business in a browser's jar


def test_hop_by_hop_fields_stop_here(rig, upstream):
    hops = {"Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "5", "TE": "trailers", "Trailer": "X-T"}
    answer = rig.ask("/echo", headers=hops)
    assert answer.header("keep-alive") is None
    for name in hops:
        assert upstream.arrived[0].header(name) is None


def test_what_a_client_shows_us_is_not_shown_to_the_child(rig, upstream):
    rig.ask("/echo", headers=SECRETS)
    request = upstream.arrived[0]
    assert [value for name, value in request.headers if name.lower() == "authorization"] == [f"Bearer {KEY}1"]
    for name in SECRETS.keys() - {"Authorization"}:
        assert request.header(name) is None


def test_connection_cannot_take_the_childs_own_key_away(rig, upstream):
    client = rig.connect()
    client.post("/echo", headers={"Connection": "close, Authorization, Host, Content-Length"})
    assert client.answer().status == 200
    request = upstream.arrived[0]
    assert request.header("authorization") == f"Bearer {KEY}1"
    assert request.header("content-length") == "2"
    assert client.ends()


def test_the_childs_key_is_that_of_its_generation_and_reaches_no_client(rig, upstream):
    rig.abort(1)
    rig.ready(upstream.port, generation=7)
    answer = rig.ask("/echo")
    assert upstream.arrived[0].header("authorization") == f"Bearer {KEY}7"
    assert KEY not in repr(answer)


def test_a_fit_request_id_is_kept(rig, upstream):
    answer = rig.ask("/echo", headers={"X-Request-ID": "mine-1"})
    assert answer.header("x-request-id") == "mine-1"
    assert upstream.arrived[0].header("x-request-id") is None


@pytest.mark.parametrize("unfit", ["", "two words", "x" * 129, "caf\xe9"])
def test_an_unfit_request_id_is_replaced(rig, unfit):
    ids = {rig.ask("/echo", headers={"X-Request-ID": unfit}).header("x-request-id") for _ in range(3)}
    assert len(ids) == 3
    assert unfit not in ids


def test_every_kind_of_answer_tells_its_id_and_client(rig, upstream):
    for path in ("/echo", "/stream", "/until_close", "/slots", "/health", "/garbage"):
        answer = rig.get(path, {"X-Request-ID": "mine-2"})
        assert answer.header("x-request-id") == "mine-2", path
        assert answer.header("x-llmsup-client") == "ip:127.0.0.1", path
        assert answer.header("x-llmsup-queue-ms").isdigit(), path


def test_a_passed_answer_tells_how_often_it_was_asked_again(rig):
    assert rig.ask("/echo").header("x-llmsup-retries") == "0"


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, "ip:127.0.0.1"),
        ({"X-Forwarded-For": "198.51.100.7"}, "ip:198.51.100.7"),
        ({"X-Session-ID": "s1", "X-Forwarded-For": "198.51.100.7"}, "session:s1"),
        ({"X-User-ID": "ann", "X-Session-ID": "s1"}, "user:ann"),
        ({"X-User-ID": "a b\xe9"}, "user:a%20b%E9"),
    ],
)
def test_a_trusted_proxy_may_say_for_whom_it_asks(rig, headers, name):
    assert rig.ask("/echo", headers=headers).header("x-llmsup-client") == name


def test_a_stranger_may_not(make_rig):
    rig = make_rig(trusted_proxies=("10.0.0.0/8",))
    answer = rig.ask("/echo", headers={"X-User-ID": "ann", "X-Forwarded-For": "198.51.100.7"})
    assert answer.header("x-llmsup-client") == "ip:127.0.0.1"


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_clients_trace_goes_on(rig, upstream):
    rig.ask("/echo", headers={"traceparent": TRACE, "tracestate": "a=1"})
    assert upstream.arrived[0].header("traceparent") == TRACE
    assert upstream.arrived[0].header("tracestate") == "a=1"


def test_each_request_without_a_valid_trace_gets_one_of_its_own(rig, upstream):
    for headers in ({}, {"traceparent": TRACE.upper(), "tracestate": "a=1"}, {"tracestate": "a=1"}):
        rig.ask("/echo", headers=headers)
    made = [[v for name, v in one.headers if name.lower() == "traceparent"] for one in upstream.arrived]
    assert all(len(values) == 1 for values in made)
    assert len({values[0] for values in made}) == 3
    for (value,) in made:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", value)
    assert [one.header("tracestate") for one in upstream.arrived] == [None] * 3


def test_a_request_asked_again_keeps_its_trace(make_rig, upstream):
    make_rig(retry=RetryBounds(max_retries=2, delay_s=0.05)).ask("/garbage")
    traces = [one.header("traceparent") for one in upstream.arrived]
    assert len(traces) == 3
    assert len(set(traces)) == 1


def test_what_the_child_allows_other_origins_is_not_passed_on(rig, upstream):
    answer = rig.ask("/echo", headers={"Origin": "http://localhost", "Host": "localhost"})
    assert answer.status == 200
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]
    assert upstream.arrived[0].header("origin") is None


def test_an_error_in_a_stream_names_its_request(rig):
    answer = rig.ask("/cut_between_events", headers={"X-Request-ID": "mine-3"})
    assert json.loads(answer.events()[-1])["error"]["request_id"] == "mine-3"
