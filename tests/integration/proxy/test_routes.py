"""What the proxy answers itself: own routes, refused routes, and the one shape of an error."""

import json
from datetime import UTC, datetime

import pytest

from supervisor.events import Death
from supervisor.ratelimit.pools import pool
from supervisor.types import Generation
from tests.support import rawhttp
from tests.support.proxyrig import view

ADMIN = [
    ("GET", "/slots"),
    ("GET", "/slots?fail_on_no_slot=1"),
    ("GET", "//slots"),
    ("GET", "///slots"),
    ("GET", "/%73lots"),
    ("GET", "/%2fslots"),
    ("GET", "/slots/"),
    ("GET", "/slots%00"),
    ("GET", "/slots;x"),
    ("GET", "http://other/slots"),
    ("GET", "HTTPS://other//slots"),
    ("HEAD", "/slots"),
    ("POST", "/slots/0?action=erase"),
    ("POST", "/slots%2f0?action=save"),
    ("GET", "/metrics"),
    ("GET", "/v1/stream"),
    ("DELETE", "/v1/stream"),
    ("POST", "/v1/streams/lookup"),
    ("POST", "/props"),
    ("POST", "/%70rops"),
    ("POST", "//props"),
    ("POST", "/props?x"),
    ("PUT", "/props"),
    ("POST", "/lora-adapters"),
    ("POST", "/models/load"),
    ("POST", "/models"),
    ("GET", "/tools"),
    ("GET", "/cors-proxy?url=x"),
]


@pytest.mark.parametrize(("method", "target"), ADMIN)
def test_admin_routes_are_refused_in_every_spelling(rig, upstream, method, target):
    client = rig.connect()
    client.send(rawhttp.request(method, target))
    answer = client.answer(head_only=method == "HEAD")
    assert answer.status == 403
    assert upstream.begun == []
    assert client.ask("/echo").status == 200


@pytest.mark.parametrize("target", ["/%u0073lots", "/slots#x", "/props#x", "http://h/props#x", "/pr%u006fps"])
def test_spellings_only_llama_server_understands_are_refused(rig, upstream, target):
    """cpp-httplib decodes %uXXXX and cuts a target at its fragment."""
    client = rig.connect()
    client.send(rawhttp.request("POST", target, b"{}"))
    assert client.answer().status in {400, 403}
    assert upstream.begun == []


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/props"), ("GET", "/lora-adapters"), ("POST", "/v1/x?a=%u0041"), ("GET", "/")],
)
def test_other_routes_pass(rig, upstream, method, target):
    client = rig.connect()
    client.send(rawhttp.request(method, target))
    assert client.answer().status == 200
    assert upstream.targets() == [target]


# ---- /health and /v1/models

DEATH = Death(
    datetime(2025, 1, 1, tzinfo=UTC),
    Generation(1),
    "model_missing",
    None,
    1,
    0.1,
    "no file /models/demo.gguf",
)


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_of_a_ready_model(rig, upstream, path):
    answer = rig.get(path)
    assert (answer.status, answer.json()) == (200, {"status": "ok", "state": "READY"})
    assert upstream.begun == []


@pytest.mark.parametrize(
    ("state", "wanted", "status", "word"),
    [
        ("STARTING", True, 503, "starting"),
        ("LOADING", True, 503, "starting"),
        ("BACKOFF", True, 503, "starting"),
        ("CRASHLOOP", True, 503, "starting"),
        ("DRAINING", False, 503, "unavailable"),
        ("STOPPED", False, 503, "unavailable"),
        ("UNKILLABLE", True, 503, "unavailable"),
        ("FAILED", True, 500, "error"),
    ],
)
def test_health_in_each_other_state(rig, state, wanted, status, word):
    rig.state(state, wanted=wanted)
    answer = rig.get("/health")
    assert (answer.status, answer.json()) == (status, {"status": word, "state": state})
    assert (answer.header("retry-after") is None) is (status == 500)


def test_health_tells_strangers_nothing_of_what_is_missing(rig):
    rig.state("FAILED", last_death=DEATH)
    answer = rig.get("/health")
    assert (answer.status, answer.json()) == (500, {"status": "error", "state": "FAILED"})


def test_health_while_draining(rig):
    rig.call(rig.admission.drain)
    answer = rig.get("/health")
    assert (answer.status, answer.json()["status"]) == (503, "draining")


def test_models_lists_each_with_its_state(make_rig):
    rig = make_rig(models=("demo", "other"))
    for path in ("/v1/models", "/models"):
        data = rig.get(path).json()["data"]
        assert [(model["id"], model["state"]) for model in data] == [("demo", "READY"), ("other", "LOADING")]


# ---- errors


def check_error(answer, code: str, kind: str) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "source", "request_id"}
    assert (error["code"], error["type"], error["param"], error["source"]) == (code, kind, None, "llmsup")
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert error["message"]
    assert error["request_id"] == answer.header("x-request-id")


def test_a_refused_route_is_a_permission_error(rig):
    check_error(rig.get("/slots"), "forbidden", "permission_error")


def test_every_503_says_when_to_come_back(make_rig):
    rig = make_rig(queue_timeout_s=0.05)
    rig.state("STOPPED", wanted=False)
    unavailable = rig.ask("/echo")
    check_error(unavailable, "model_unavailable", "server_error")
    rig.state("LOADING")
    loading = rig.ask("/echo")
    check_error(loading, "model_loading", "server_error")
    for answer in (unavailable, loading):
        assert answer.status == 503
        assert int(answer.header("retry-after")) >= 1
        assert int(answer.header("retry-after-ms")) >= 1


def test_a_rate_limited_client_is_told_when_to_come_back_and_may_see_health(make_rig, upstream):
    rig = make_rig(pools={"anonymous": pool("anonymous", requests_per_minute=1)})
    rig.ready(upstream.port)
    client = rig.connect()
    assert client.ask("/echo").status == 200
    answer = client.ask("/echo")
    check_error(answer, "rate_limit_exceeded", "rate_limit_error")
    assert answer.status == 429
    assert 59_000 <= int(answer.header("retry-after-ms")) <= 66_000  # a tenth of it by chance
    assert 60 <= int(answer.header("retry-after")) <= 66
    assert answer.header("x-ratelimit-limit-requests") == "1"
    assert answer.header("x-ratelimit-remaining-requests") == "0"
    client.get("/health")
    assert client.answer().status == 200
    assert len(upstream.begun) == 1


# ---- several models


@pytest.fixture
def two(make_rig, upstream):
    rig = make_rig(models=("demo", "other"))
    rig.publish(view(name="other", port=upstream.port, generation=5))
    return rig


@pytest.mark.parametrize(
    ("body", "generation"),
    [(b'{"model": "other"}', 5), (b'{"model": "demo"}', 1), (b"{}", 1), (b"", 1), (b'{"model": null}', 1)],
)
def test_the_body_names_the_model(two, upstream, body, generation):
    assert two.ask("/echo", body).status == 200
    assert upstream.arrived[0].header("authorization") == f"Bearer key-of-generation-{generation}"


def test_an_unknown_model_is_a_404_that_names_the_others(two):
    answer = two.ask("/echo", b'{"model": "nope"}')
    check_error(answer, "model_not_found", "not_found_error")
    assert answer.status == 404
    assert "demo, other" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b'{"model": 3}', b"\xff\xfe", b"[" * 10_000])
def test_a_body_that_names_no_model_legibly_is_a_400(two, upstream, body):
    answer = two.ask("/echo", body)
    check_error(answer, "bad_request", "invalid_request_error")
    assert upstream.begun == []


def test_one_model_serves_every_name(rig):
    assert rig.ask("/echo", b'{"model": "gpt-4o"}').status == 200


def test_what_never_became_a_request_has_an_id_too(rig) -> None:
    with rawhttp.connect(rig.port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        reply = rawhttp.Reader(client).response()
    fields = dict(reply.headers)
    assert reply.status == 400
    assert fields["x-request-id"] == json.loads(reply.body)["error"]["request_id"] != "-"
    assert fields["x-llmsup-client"] == "ip:127.0.0.1"
