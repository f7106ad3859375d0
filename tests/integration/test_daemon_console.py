"""The operator's way in on the port: who may ask, what is passed on, and what it costs the others: nothing."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from supervisor.app import FLUSH_S
from tests.support import rawhttp
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, running, until

CSRF = {"x-llmsup-csrf": "1"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonUnderTest]:
    with running() as living:
        yield living


@pytest.fixture(scope="module")
def key(daemon: DaemonUnderTest) -> str:
    return create(daemon, "ops", "admin")


@pytest.fixture(scope="module")
def open_daemon() -> Iterator[DaemonUnderTest]:
    with running(dashboard={"open_on_loopback": True}) as living:
        yield living


def create(daemon: DaemonUnderTest, name: str, scope: str) -> str:
    done = daemon.cli("keys", "create", name, "--scope", scope)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(daemon: DaemonUnderTest, path: str, method: str = "GET", **headers: str) -> rawhttp.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return rawhttp.ask(daemon.port, method, path, None, named)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def session(daemon: DaemonUnderTest, key: str) -> dict[str, str]:
    """The cookie of a browser that has signed in, and the token of its page."""
    reply = rawhttp.ask(daemon.port, "POST", "/llmsup/login", None, bearer(key) | CSRF)
    assert reply.status == 200
    cookie = reply.header("set-cookie") or ""
    return {"Cookie": cookie.partition(";")[0], "x-llmsup-csrf": reply.json()["token"]}


# ---- who may


def test_an_admin_key_opens_the_whole_api(daemon, key):
    reply = rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(key))
    assert reply.status == 200
    assert reply.json()["pid"] == daemon.pid
    assert reply.header("x-llmsup-client") == "key:ops"


@pytest.mark.parametrize("path", ["/llmsup/status", "/llmsup/config", "/llmsup/nowhere", "/llmsup/login"])
def test_without_a_key_nothing_is_told(daemon, path):
    reply = ask(daemon, path)
    assert reply.status == 401
    assert reply.header("www-authenticate") == "Bearer"
    assert reply.json()["error"]["code"] == "unauthorized"


def test_an_ordinary_key_is_not_enough_and_a_wrong_one_is_none(daemon):
    ordinary = create(daemon, "ci", "inference")
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(ordinary)).status == 403
    assert rawhttp.ask(daemon.port, "POST", "/llmsup/login", None, bearer(ordinary)).status == 403
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(ordinary[:-1] + "_")).status == 401


def test_the_page_itself_is_public_and_says_nothing(daemon):
    page = ask(daemon, "/llmsup/")
    assert page.status == 200
    assert "default-src 'none'" in (page.header("content-security-policy") or "")
    script = ask(daemon, "/llmsup/assets/app.js")
    assert (script.status, script.header("content-type")) == (200, "text/javascript; charset=utf-8")
    assert script.header("cache-control") == "no-cache"
    again = ask(daemon, "/llmsup/assets/app.js", If_None_Match=script.header("etag") or "")
    assert (again.status, again.body, again.header("etag")) == (304, b"", script.header("etag"))
    assert ask(daemon, "/llmsup/assets/nothing.js").status == 404
    assert ask(daemon, "/llmsup").header("location") == "/llmsup/"


@pytest.mark.parametrize(
    "path",
    [
        "/llmsup/assets/../status",
        "/llmsup/assets/..%2fstatus",
        "/llmsup/%61ssets/%2e%2e/status",
        "/%6clmsup/status",
        "//llmsup/status",
        "/llmsup//status",
        "/llmsup/./status",
    ],
)
def test_no_other_way_of_writing_it_leads_past_the_door(daemon, path):
    reply = ask(daemon, path)
    assert reply.status in {401, 403, 404}
    assert b'"pid"' not in reply.body


def test_a_browser_signs_in_and_out(daemon, key):
    cookie = session(daemon, key)
    assert key not in str(cookie)
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie).status == 200
    assert rawhttp.ask(daemon.port, "POST", "/llmsup/logout", None, cookie).status == 204
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie).status == 401


def test_the_cookie_alone_which_goes_to_every_port_is_good_for_nothing(daemon, key):
    whole = session(daemon, key)
    cookie = {"Cookie": whole["Cookie"]}
    other = session(daemon, key)["x-llmsup-csrf"]
    for said in ({}, CSRF, {"x-llmsup-csrf": other}, {"x-llmsup-csrf": whole["Cookie"].partition("=")[2]}):
        assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie | said).status == 401
        if said:
            assert rawhttp.ask(daemon.port, "POST", "/llmsup/reload", None, cookie | said).status == 401
            assert rawhttp.ask(daemon.port, "POST", "/llmsup/logout", None, cookie | said).status == 204
    token = {"x-llmsup-csrf": whole["x-llmsup-csrf"]}
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, token).status == 401
    assert (
        rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, whole).status == 200
    )  # nor has it signed out


def test_a_second_tab_signs_in_beside_the_first(daemon, key):
    first = session(daemon, key)
    reply = rawhttp.ask(
        daemon.port, "POST", "/llmsup/login", None, bearer(key) | CSRF | {"Cookie": first["Cookie"]}
    )
    assert (reply.header("set-cookie") or "").startswith(first["Cookie"])
    second = {"Cookie": first["Cookie"], "x-llmsup-csrf": reply.json()["token"]}
    for tab in (first, second):
        assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, tab).status == 200


def test_a_session_ends_with_its_key(daemon):
    cookie = session(daemon, create(daemon, "soon-gone", "admin"))
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie).status == 200
    assert daemon.cli("keys", "revoke", "soon-gone").returncode == 0
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # same site, another origin
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_use_a_browsers_session(daemon, key, headers):
    cookie = session(daemon, key)
    before = daemon.model()["generation"]
    reply = rawhttp.ask(daemon.port, "POST", "/llmsup/restart", None, cookie | headers)
    assert reply.status == 403
    assert daemon.model()["generation"] == before
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, cookie | headers).status == 403


def test_our_own_page_can(daemon, key):
    cookie = session(daemon, key)
    own = {"Origin": f"http://127.0.0.1:{daemon.port}", "Host": f"127.0.0.1:{daemon.port}"}
    generation = daemon.model()["generation"]
    fetch = {"Sec-Fetch-Site": "same-origin"}
    reply = rawhttp.ask(daemon.port, "POST", "/llmsup/restart", None, cookie | own | fetch)
    assert reply.json() == {"restarting": "demo"}
    daemon.wait_next(generation)


def test_where_everybody_needs_a_key_a_browser_still_gets_to_the_door():
    with running(proxy={"require_key": True}) as daemon:
        key = create(daemon, "ops", "admin")
        assert ask(daemon, "/llmsup/").status == 200
        assert ask(daemon, "/llmsup/status").status == 401
        assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, session(daemon, key)).status == 200


def test_a_session_opened_over_tls_stays_there(daemon, key):
    own = {"Host": f"127.0.0.1:{daemon.port}", "Origin": f"https://127.0.0.1:{daemon.port}"}
    reply = rawhttp.ask(daemon.port, "POST", "/llmsup/login", None, bearer(key) | CSRF | own)
    assert (reply.header("set-cookie") or "").endswith("; Secure")


# ---- open on loopback


def test_names_behind_a_proxy_are_ours_where_they_are_named():
    with running(proxy={"server_names": ["llm.example"]}) as daemon:
        own = {"Host": "llm.example", "Origin": "https://llm.example"}
        reply = rawhttp.ask(
            daemon.port, "POST", "/llmsup/login", None, bearer(create(daemon, "ops", "admin")) | own
        )
        assert (reply.header("set-cookie") or "").endswith("; Secure")
        assert ask(daemon, "/llmsup/", Host="other.example").status == 421


def test_open_on_loopback_is_for_who_sits_here(open_daemon):
    port = open_daemon.port
    for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(open_daemon, "/llmsup/status", Host=host).status == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # DNS rebinding
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.nip.io"},
        {"X-Forwarded-For": "203.0.113.1"},
        {"Forwarded": "for=203.0.113.1"},
        {"X-Real-IP": "203.0.113.1"},
        {"X-Forwarded-Host": "llm.example"},
        {"Via": "1.1 proxy"},
    ],
)
def test_and_for_nobody_else(open_daemon, headers):
    asked = {"Host": "localhost"} | headers
    expected = {"localhost": 401, "[::1": 400}.get(asked["Host"], 421)
    assert rawhttp.ask(open_daemon.port, "GET", "/llmsup/status", None, asked).status == expected


def test_and_for_no_proxy_that_says_nothing_of_itself(open_daemon):
    """nginx with nothing but `proxy_pass`, which speaks HTTP/1.0."""
    with rawhttp.connect(open_daemon.port, DEADLINE_S) as sock:
        sock.sendall(f"GET /llmsup/status HTTP/1.0\r\nHost: 127.0.0.1:{open_daemon.port}\r\n\r\n".encode())
        assert rawhttp.Reader(sock).response().status == 401


def test_there_too_a_page_of_another_site_changes_nothing(open_daemon):
    for headers in ({}, CSRF | {"Origin": "http://evil.example"}, CSRF | {"Sec-Fetch-Site": "cross-site"}):
        asked = {"Host": "localhost"} | headers
        assert rawhttp.ask(open_daemon.port, "POST", "/llmsup/restart", None, asked).status == 403


def test_by_default_it_is_not_open(daemon):
    assert ask(daemon, "/llmsup/status", Host="localhost").status == 401


def test_switched_off_there_is_no_page_but_the_api_for_keys():
    with running(dashboard={"enabled": False, "open_on_loopback": True}) as daemon:
        key = create(daemon, "ops", "admin")
        assert ask(daemon, "/llmsup/").status == 404
        assert ask(daemon, "/llmsup/assets/app.js").status == 404
        assert ask(daemon, "/llmsup/status", Host="localhost").status == 401
        assert rawhttp.ask(daemon.port, "POST", "/llmsup/login", None, bearer(key) | CSRF).status == 404
        assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(key)).status == 200


def test_cors_does_not_reach_the_operators_pages():
    cors = {"allow_origins": ["http://app.example"], "allow_credentials": True}
    with running(proxy={"cors": cors}, dashboard={"open_on_loopback": True}) as daemon:
        page = {"Origin": "http://app.example", "Host": "localhost"}
        preflight = page | {"Access-Control-Request-Method": "POST"}
        for method, headers in (("GET", page), ("OPTIONS", preflight)):
            reply = rawhttp.ask(daemon.port, method, "/llmsup/status", None, headers)
            assert reply.status == 403
            assert reply.header("access-control-allow-origin") is None
        assert rawhttp.ask(daemon.port, "GET", "/health", None, page).header("access-control-allow-origin")


# ---- what is passed on


def test_the_tables_do_not_list_who_looks_at_them(daemon, key):
    before = daemon.status()["requests"]["total"]
    rows = rawhttp.ask(daemon.port, "GET", "/llmsup/requests", None, bearer(key)).json()["requests"]
    assert rows == []
    assert daemon.status()["requests"]["total"] == before


def test_a_stopping_model_and_a_full_queue_do_not_keep_the_operator_out(key, daemon):
    assert rawhttp.ask(daemon.port, "POST", "/llmsup/unload?model=demo", None, bearer(key)).status == 200
    daemon.wait_for(lambda one: one["state"] == "STOPPED", "STOPPED")
    status = rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(key)).json()
    assert status["models"][0]["state"] == "STOPPED"
    assert rawhttp.ask(daemon.port, "POST", "/llmsup/load?model=demo", None, bearer(key)).status == 200
    daemon.wait_ready()


class Feed:
    """A stream of events on the port."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._text = b""

    def next(self, kind: str) -> dict[str, Any]:
        """The next event of that kind."""
        while True:
            block, end, rest = self._text.partition(b"\n\n")
            if not end:
                piece = self._reader.chunk()
                assert piece
                self._text += piece
                continue
            self._text = rest
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if not line.startswith(b":"))
            if fields.get(b"event") == kind.encode():
                found: dict[str, Any] = json.loads(fields[b"data"])
                return found


@contextlib.contextmanager
def events(daemon: DaemonUnderTest, key: str, query: str = "") -> Iterator[Feed]:
    with rawhttp.connect(daemon.port, DEADLINE_S) as sock:
        sock.sendall(rawhttp.request("GET", f"/llmsup/events?follow=1{query}", None, bearer(key)))
        reader = rawhttp.Reader(sock)
        head = reader.head()
        assert head.status == 200
        assert (head.header("content-type") or "").startswith("text/event-stream")
        yield Feed(reader)


def test_events_stream_through_the_port_as_they_happen(daemon, key):
    with events(daemon, key, "&n=0") as feed:
        generation = daemon.kill_child()
        death = feed.next("death")
        assert (death["data"]["model"], death["data"]["signal"]) == ("demo", "SIGKILL")
        assert feed.next("state")["data"]["before"] == "READY"
    daemon.wait_next(generation)


@contextlib.contextmanager
def following(daemon: DaemonUnderTest, path: str, shown: dict[str, str]) -> Iterator[Any]:
    """A stream of the control API, open."""
    with rawhttp.connect(daemon.port, DEADLINE_S) as sock:
        sock.sendall(rawhttp.request("GET", path, None, shown))
        reader = rawhttp.Reader(sock)
        assert reader.head().status == 200
        yield reader


def ends_within(reader: Any, seconds: float) -> bool:
    begun = time.monotonic()
    while not reader.is_closed():
        pass
    return time.monotonic() - begun < seconds


STREAMS = ("/llmsup/events?follow=1&snapshots=1", "/llmsup/logs?follow=1&of=daemon", "/llmsup/logs?follow=1")


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_ends_with_its_key(daemon, path):
    with following(daemon, path, bearer(create(daemon, f"gone-{STREAMS.index(path)}", "admin"))) as stream:
        assert daemon.cli("keys", "revoke", f"gone-{STREAMS.index(path)}").returncode == 0
        assert ends_within(stream, 2.5)
        assert b'"unauthorized"' in stream.buffer


def test_a_stream_ends_with_its_sessions_key_and_with_signing_out(daemon, key):
    of_key = session(daemon, create(daemon, "passing", "admin"))
    with following(daemon, STREAMS[0], of_key) as stream:
        assert daemon.cli("keys", "revoke", "passing").returncode == 0
        assert ends_within(stream, 2.5)
    tab = session(daemon, key)
    with following(daemon, STREAMS[1], tab) as stream, following(daemon, STREAMS[1], bearer(key)) as other:
        assert rawhttp.ask(daemon.port, "POST", "/llmsup/logout", None, tab).status == 204
        assert ends_within(stream, 1.0)
        assert other.chunk()  # whoever shows the key itself reads on


def test_a_stream_ends_when_its_key_expires(daemon):
    made = daemon.cli("keys", "create", "short", "--scope", "admin", "--expires", "2s")
    with following(daemon, STREAMS[0], bearer(made.stdout.strip())) as stream:
        assert ends_within(stream, 5.0)


def test_who_leaves_a_stream_is_forgotten(daemon, key):
    with events(daemon, key, "&snapshots=1") as feed:
        shown = feed.next("snapshot")
        assert set(shown) == {"status", "requests", "clients"}
    # 64 is the limit: were they kept, the last ones would be refused.
    for _ in range(70):
        with events(daemon, key):
            pass


def test_an_open_stream_does_not_keep_the_daemon_from_its_end():
    """Not even for the second that clients get to read the rest of their answers."""
    took = []
    for _ in range(3):  # a busy machine may need longer for other reasons
        with running() as daemon:
            key = create(daemon, "ops", "admin")
            with events(daemon, key, "&snapshots=1"), events(daemon, key):
                daemon.stop(within_s=5.0)
            took.append(seconds_between(daemon.log(), "stopping", "stopped"))
        if took[-1] < FLUSH_S:
            return
    raise AssertionError(took)


def seconds_between(log: str, first: str, last: str) -> float:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    times = {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
    return (times[last] - times[first]).total_seconds()


def test_the_control_socket_gone_is_said_and_comes_back(daemon, key):
    daemon.run_dir.socket_path.unlink()
    reply = rawhttp.ask(daemon.port, "GET", "/llmsup/clients", None, bearer(key))
    assert reply.status in {200, 502}  # 200: over a connection that was open still
    until(daemon.run_dir.socket_path.exists, "made again", 10.0)
    assert rawhttp.ask(daemon.port, "GET", "/llmsup/status", None, bearer(key)).status == 200
