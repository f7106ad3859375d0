"""API keys on the wire: who is let in, as whom, to what; and that nobody is told more."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.keys import store
from supervisor.keys.key import Key, Scope
from supervisor.keys.ring import Keyring
from supervisor.proxy.cors import CorsRules
from tests.support import rawhttp
from tests.support.proxyrig import DEADLINE_S, ProxyRig


class KeyFile:
    """A list of keys, and the keyring of the rig on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = Keyring(path, SystemClock().wall)

    def make(self, name: str = "ci", **rights: object) -> str:
        wanted = Key(id="", name=name, digest=b"", created=datetime.now(UTC), **rights)
        return store.create(self.path, wanted)[0]


@pytest.fixture
def keyfile(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / store.FILE_NAME)


@pytest.fixture
def rig(make_rig, keyfile):
    return make_rig(keyring=keyfile.ring)


def take_up(rig: ProxyRig, keyfile: KeyFile) -> None:
    """What the daemon does when it is told of a change."""
    assert rig.start(keyfile.ring.reload()).wait(DEADLINE_S)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def assert_refused(answer: rawhttp.Response, status: int, code: str) -> None:
    assert answer.status == status
    assert json.loads(answer.body)["error"]["code"] == code
    assert answer.header("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("style", ["bearer", "x-api-key"])
def test_a_key_names_its_client_and_goes_no_further(rig, keyfile, upstream, style):
    text = keyfile.make()
    take_up(rig, keyfile)
    headers = bearer(text) if style == "bearer" else {"x-api-key": text}
    answer = rig.ask("/echo", headers=headers | {"X-User-ID": "ann"})
    assert answer.status == 200
    assert answer.header("x-llmsup-client") == "key:ci"
    assert text not in repr(upstream.arrived[0].headers)


def test_unknown_revoked_and_expired_keys_are_refused_alike(rig, keyfile, upstream):
    past = datetime.now(UTC) - timedelta(seconds=1)
    gone, over = keyfile.make("gone"), keyfile.make("over", expires=past)
    store.revoke(keyfile.path, "gone")
    take_up(rig, keyfile)
    other = f"{over[:16]}{'x' * 43}"
    answers = [rig.ask("/echo", headers=bearer(text)) for text in (gone, over, other, "llmsup_x")]
    for answer in answers:
        assert_refused(answer, 401, "unauthorized")
        assert answer.header("x-llmsup-client") == "ip:127.0.0.1"
    assert len({json.loads(answer.body)["error"]["message"] for answer in answers}) == 1
    assert upstream.arrived == []


def test_a_refused_key_leaves_the_connection_in_order(rig, keyfile):
    text = keyfile.make()
    take_up(rig, keyfile)
    client = rig.connect()
    assert client.ask("/echo", headers=bearer("llmsup_x")).status == 401
    assert client.ask("/echo", headers=bearer(text)).status == 200


def test_foreign_keys_are_ignored(rig):
    answer = rig.ask("/echo", headers=bearer("sk-none"))
    assert (answer.status, answer.header("x-llmsup-client")) == (200, "ip:127.0.0.1")


def test_a_key_is_in_force_and_out_of_force_on_an_open_connection(rig, keyfile):
    client = rig.connect()
    text = keyfile.make()
    assert client.ask("/echo", headers=bearer(text)).status == 401
    take_up(rig, keyfile)
    assert client.ask("/echo", headers=bearer(text)).status == 200
    store.revoke(keyfile.path, "ci")
    take_up(rig, keyfile)
    assert client.ask("/echo", headers=bearer(text)).status == 401


def test_a_broken_file_refuses_keys_and_opens_nothing(make_rig, keyfile):
    text = keyfile.make()
    admin = keyfile.make("ops", scopes=frozenset(Scope))
    keyfile.path.write_bytes(b"{")
    rig = make_rig(keyring=keyfile.ring, require_key=True)
    take_up(rig, keyfile)
    for headers in (bearer(text), bearer(admin), {}):
        assert_refused(rig.ask("/echo", headers=headers), 401, "unauthorized")
    assert_refused(rig.get("/slots", headers=bearer(admin)), 401, "unauthorized")
    assert rig.get("/health").status == 200


def test_where_a_key_is_required_only_health_answers_without(make_rig, keyfile):
    text = keyfile.make()
    rig = make_rig(keyring=keyfile.ring, require_key=True)
    take_up(rig, keyfile)
    assert_refused(rig.ask("/echo"), 401, "unauthorized")
    assert_refused(rig.ask("/echo", headers=bearer("sk-none")), 401, "unauthorized")
    assert_refused(rig.get("/v1/models"), 401, "unauthorized")
    assert rig.get("/health").status == 200
    assert rig.get("/v1/models", headers=bearer(text)).status == 200
    assert rig.ask("/echo", headers=bearer(text)).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/slots"), ("POST", "/props"), ("GET", "/%73lots?x=1")])
def test_admin_routes_are_open_to_admin_keys_only(rig, keyfile, upstream, method, path):
    plain, admin = keyfile.make(), keyfile.make("ops", scopes=frozenset({Scope.ADMIN}))
    take_up(rig, keyfile)
    body = b"{}" if method == "POST" else None

    def ask(headers: dict[str, str]) -> rawhttp.Response:
        client = rig.connect()
        client.send(rawhttp.request(method, path, body, headers))
        return client.answer()

    assert_refused(ask({}), 403, "forbidden")
    refused = ask(bearer(plain))
    assert_refused(refused, 403, "forbidden")
    assert refused.header("x-llmsup-client") == "key:ci"
    assert_refused(ask(bearer("llmsup_x")), 401, "unauthorized")
    assert upstream.arrived == []
    assert ask(bearer(admin)).header("x-llmsup-client") == "key:ops"
    assert [one.target for one in upstream.arrived] == [path]


def test_a_key_for_administration_or_for_another_model_asks_nothing(rig, keyfile, upstream):
    admin = keyfile.make("ops", scopes=frozenset({Scope.ADMIN}))
    other = keyfile.make("other", models=frozenset({"other"}))
    take_up(rig, keyfile)
    for text in (admin, other):
        assert_refused(rig.ask("/echo", headers=bearer(text)), 403, "forbidden")
    assert upstream.arrived == []


def test_a_page_may_read_the_refusal_and_ask_without_a_key_whether_it_may_ask(make_rig, keyfile):
    origin = "https://app.example"
    rules = CorsRules(origins=(origin,), headers=("*",), credentials=False, max_age_s=60)
    rig = make_rig(keyring=keyfile.ring, require_key=True, cors=rules)
    refused = rig.ask("/echo", headers={"Origin": origin})
    assert_refused(refused, 401, "unauthorized")
    assert refused.header("access-control-allow-origin") == origin
    client = rig.connect()
    wish = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    client.send(rawhttp.request("OPTIONS", "/echo", None, wish))
    assert client.answer().status == 204


@pytest.mark.fault(47)
def test_what_an_untrusted_peer_says_of_itself_is_ignored(make_rig):
    rig = make_rig(trusted_proxies=("10.0.0.0/8",))
    forged = {
        "X-User-ID": "ann",
        "X-Session-ID": "s",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
    }
    assert rig.ask("/echo", headers=forged).header("x-llmsup-client") == "ip:127.0.0.1"


def test_the_standard_header_of_a_trusted_proxy_counts(rig):
    lines = [("Forwarded", "for=6.6.6.6"), ("Forwarded", 'for="[2001:DB8::1]:80";proto=https')]
    assert rig.ask("/echo", headers=lines).header("x-llmsup-client") == "ip:2001:db8::/64"
    both = [*lines, ("X-Forwarded-For", "192.0.2.1")]
    assert rig.ask("/echo", headers=both).header("x-llmsup-client") == "ip:192.0.2.1"


def test_another_sites_page_is_refused_before_a_key_is_looked_at_and_a_body_understood(make_rig, keyfile):
    rig = make_rig(keyring=keyfile.ring, require_key=True)
    said = {"Origin": "http://evil.example"}
    for headers in (said, said | bearer(keyfile.make())):
        assert_refused(rig.ask("/v1/chat/completions", b"{not json", headers), 403, "origin_not_allowed")


def test_health_tells_the_file_and_the_reason_to_who_shows_a_key(rig, keyfile):
    text = keyfile.make()
    take_up(rig, keyfile)
    rig.state("LOADING")
    told = rig.get("/health", bearer(text)).json()
    assert told["model_path"] == "/models/demo.gguf"
    assert told["error"]
    assert set(rig.get("/health").json()) == {"status", "state"}
