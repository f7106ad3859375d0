"""What is decided before what: who asks and whether they may, before a body is taken or read; and refusals are charged."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.keys import store
from supervisor.keys.key import Key, Scope
from supervisor.keys.ring import Keyring
from supervisor.proxy import asked
from supervisor.proxy.outline import Outline
from supervisor.ratelimit.pools import pool
from supervisor.types import MIB
from tests.support import rawhttp
from tests.support.proxyrig import DEADLINE_S

LARGE = {"Content-Length": str(31 * MIB)}
CHAT = "/v1/chat/completions"


def head(headers=(), path=CHAT):
    return rawhttp.request("POST", path, None, {**LARGE, **dict(headers)})


@pytest.fixture
def nothing_read(monkeypatch):
    """It is an error to read a body."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a body was read")

    monkeypatch.setattr(asked, "from_json", never)
    monkeypatch.setattr(Outline, "feed", never)


@pytest.fixture
def locked(make_rig, tmp_path: Path):
    """A rig in which nobody may ask without a key; and a key that is for administration only."""
    path = tmp_path / store.FILE_NAME
    key = Key(id="", name="ops", digest=b"", created=datetime.now(UTC), scopes=frozenset({Scope.ADMIN}))
    text = store.create(path, key)[0]
    ring = Keyring(path, SystemClock().wall)
    rig = make_rig(keyring=ring, require_key=True)
    assert rig.start(ring.reload()).wait(DEADLINE_S)
    return rig, text


def test_a_body_without_a_key_is_answered_before_it_comes(locked, nothing_read):
    client = locked[0].connect()
    client.send(head())
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.header("connection") == "close"
    assert answer.header("x-llmsup-client") == "ip:127.0.0.1"
    assert answer.header("x-request-id")


def test_the_answer_arrives_though_the_client_goes_on_sending(locked, nothing_read):
    client = locked[0].connect()
    client.send(head())
    with contextlib.suppress(OSError):
        for _ in range(31):
            client.send(bytes(MIB))
    assert client.answer().status == 401
    assert client.ends()


def test_who_waits_for_a_word_before_the_body_gets_the_refusal_instead(locked):
    client = locked[0].connect()
    client.send(head({"Expect": "100-continue"}))
    assert client.answer().status == 401


def test_a_key_for_something_else_is_refused_before_the_body_comes(locked, nothing_read):
    rig, key = locked
    client = rig.connect()
    client.send(head({"Authorization": f"Bearer {key}"}))
    assert client.answer().status == 403


def test_so_is_an_admin_route_and_a_target_without_a_meaning(rig, nothing_read):
    for path, status in (("/slots", 403), ("/a#b", 400)):
        client = rig.connect()
        client.send(head(path=path))
        assert client.answer().status == status


def test_behind_a_request_that_is_being_answered_it_waits_for_its_turn(locked):
    client = locked[0].connect()
    client.send(rawhttp.request("POST", CHAT, b"{}") * 2)
    assert [client.answer().status, client.answer().status] == [401, 401]


@pytest.fixture
def scarce(make_rig):
    """Three requests an hour."""
    return make_rig(pools={"anonymous": pool("anonymous", requests_per_hour=3), "user": pool("user")})


def test_with_an_empty_bucket_nothing_is_taken_nor_read(scarce, nothing_read):
    assert [scarce.ask("/slots").status for _ in range(4)] == [403, 403, 403, 429]
    client = scarce.connect()
    client.send(head())
    assert client.answer().status == 429
    client = scarce.connect()
    client.send(rawhttp.request("POST", CHAT, b"[" * (asked.SMALL_BYTES + 1)))
    assert client.answer().status == 429


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (rawhttp.request("POST", CHAT, b"nonsense"), 400),
        (rawhttp.request("POST", CHAT, b'{"x":[' + b"[]," * 100_000), 413),
        (rawhttp.request("POST", CHAT, None, {"Content-Length": str(64 * MIB)}), 413),
        (rawhttp.request("GET", "/%u0073lots"), 400),
        (rawhttp.request("GET", "/slots"), 403),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_what_is_refused_counts_against_the_rate(scarce, request_, status):
    seen = []
    for _ in range(4):
        client = scarce.connect()
        client.send(request_)
        seen.append(client.answer().status)
    assert seen == [status, status, status, 429]
    assert scarce.ask("/echo").status == 429, "it is the same bucket"
    assert scarce.get("/health").status == 200


def test_unknown_keys_count_against_the_address(make_rig, tmp_path):
    ring = Keyring(tmp_path / store.FILE_NAME, SystemClock().wall)
    rig = make_rig(keyring=ring, pools={"anonymous": pool("anonymous", requests_per_hour=3)})
    wrong = {"Authorization": "Bearer llmsup_" + "0" * 54}
    seen = [rig.ask("/echo", headers=wrong).status for _ in range(5)]
    assert seen[-1] == 429
    assert 401 in seen


def test_a_flood_of_elements_delays_nobody(rig, upstream):
    """A known client's body of 31 MiB is refused as soon as it has had too many."""
    client = rig.connect()
    client.send(head())
    with contextlib.suppress(OSError):
        client.send(b'{"x":[' + b"{}," * (10 * MIB))
    answer = client.answer()
    assert answer.status == 413
    assert "elements" in answer.json()["error"]["message"]
    assert upstream.begun == []


def test_a_large_body_is_sent_on_as_it_came(rig):
    body = b'{"prompt":"' + "é😀".encode() * 100_000 + b'","n_predict":1,"model":"demo"}'
    assert f": {len(body)}".encode() in rig.ask("/echo", body).body
