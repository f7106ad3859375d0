"""What a page of another site can make a browser send, at the wire: refused before anything is done for it."""

import pytest

from supervisor.proxy.server_names import ServerNames
from supervisor.ratelimit.pools import pool
from tests.support import rawhttp

CHAT = b'{"messages": [], "max_tokens": 1}'
SIMPLE = {"Content-Type": "text/plain;charset=UTF-8"}  # what needs no preflight


@pytest.mark.parametrize(
    "said",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_simple_request_of_another_page_reaches_nobody(make_rig, upstream, said):
    rig = make_rig(pools={"anonymous": pool("anonymous", requests_per_minute=1)})
    rig.ready(upstream.port)
    for path in ("/echo", "/v1/models", "/health", "/metrics"):
        answer = rig.ask(path, CHAT, SIMPLE | said)
        assert answer.status == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert upstream.arrived == []
    assert rig.ask("/echo", CHAT).status == 200  # it has cost our own user nothing


@pytest.mark.parametrize("host", ["evil.example:8005", "127.0.0.1.nip.io", "localhost.evil.example"])
@pytest.mark.parametrize("said", [{}, {"Sec-Fetch-Site": "same-origin"}, {"User-Agent": "Mozilla/5.0 x"}])
def test_a_name_that_means_this_machine_today_is_none_of_ours(rig, upstream, host, said):
    for method in ("GET", "POST"):
        body = CHAT if method == "POST" else None
        answer = rawhttp.ask(
            rig.port, method, "/echo", body, {"Host": host, "Origin": f"http://{host}"} | said
        )
        assert answer.status == 421
        plain = rawhttp.ask(rig.port, method, "/echo", body, {"Host": host} | said)
        assert (plain.status, plain.json()["error"]["code"]) == (421, "misdirected_request")
        assert "proxy.server_names" in plain.json()["error"]["message"]
    assert upstream.arrived == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8005", "localhost", "[::1]:80", "llmsup:8005", "llm.example", "a.llm.example"]
)
def test_names_of_ours_and_of_the_neighbourhood(make_rig, host):
    rig = make_rig(names=ServerNames(["llm.example", "*.llm.example"]))
    assert rawhttp.ask(rig.port, "GET", "/echo", None, {"Host": host}).status == 200


def test_http_1_0_needs_no_name(rig):
    client = rig.connect()
    client.send(b"GET /echo HTTP/1.0\r\n\r\n")
    assert client.answer().status == 200


def test_our_own_page_may(rig):
    own = {"Host": "localhost:8005", "Origin": "http://localhost:8005", "Sec-Fetch-Site": "same-origin"}
    assert rig.ask("/echo", CHAT, own).status == 200
