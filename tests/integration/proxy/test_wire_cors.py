"""Cross-origin requests through the whole proxy: every kind of answer tells the browser what it needs."""

import pytest

from supervisor.proxy.bounds import RetryBounds
from supervisor.proxy.cors import CorsRules
from tests.support import rawhttp

APP = "https://app.example"
RULES = CorsRules(origins=(APP,), headers=("*",), credentials=False, max_age_s=60)
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.mark.parametrize(
    "path", ["/echo", "/stream", "/until_close", "/health", "/v1/models", "/slots", "/garbage"]
)
def test_every_kind_of_answer_allows_the_origin_once(make_rig, path):
    rig = make_rig(cors=RULES, retry=RetryBounds(max_retries=0))
    answer = rig.get(path, {"Origin": APP})
    allowed = [value for name, value in answer.headers if name.lower() == "access-control-allow-origin"]
    assert allowed == [APP]
    assert "x-request-id" in answer.header("access-control-expose-headers")


def test_a_preflight_is_answered_here_and_the_connection_goes_on(make_rig, upstream):
    rig = make_rig(cors=RULES)
    client = rig.connect()
    client.send(rawhttp.request("OPTIONS", "/v1/chat/completions", None, PREFLIGHT))
    answer = client.answer()
    assert (answer.status, answer.header("content-length")) == (204, None)
    assert answer.header("access-control-allow-origin") == APP
    assert answer.header("access-control-allow-headers") == "authorization,content-type"
    assert client.ask("/echo").status == 200
    assert [request.method for request in upstream.arrived] == ["POST"]


@pytest.mark.parametrize("said", [{"Origin": "http://evil.example"}, PREFLIGHT | {"Origin": "null"}])
def test_a_stranger_is_refused_and_granted_nothing(make_rig, upstream, said):
    rig = make_rig(cors=RULES)
    for method in ("GET", "POST", "OPTIONS"):
        answer = rawhttp.ask(rig.port, method, "/echo", None, said)
        assert answer.status == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    assert upstream.arrived == []


def test_without_configuration_no_page_may_and_nothing_is_said(rig, upstream):
    for path in ("/echo", "/stream", "/health", "/slots"):
        answer = rig.get(path, {"Origin": APP})
        assert answer.status == 403
        assert answer.header("access-control-allow-origin") is None
    assert rawhttp.ask(rig.port, "OPTIONS", "/echo", None, PREFLIGHT).status == 403
    assert upstream.arrived == []
