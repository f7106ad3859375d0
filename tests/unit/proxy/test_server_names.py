"""Names of ours in Host: those that a page of somebody else's domain cannot have."""

import pytest

from supervisor.proxy.server_names import MEMO_ENTRIES, ServerNames, name_of


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8005",
        b"LOCALHOST:8005",
        b"localhost.",
        b"app.localhost:3000",
        b"127.0.0.1",
        b"127.0.0.1:8005",
        b"192.168.1.5:8005",
        b"[::1]:8005",
        b"[fe80::1]",
        b"llm.example",
        b"LLM.example:443",
        b"a.b.wild.example",
    ],
)
def test_ours(host: bytes) -> None:
    assert ServerNames(["llm.example", "*.wild.example"]).know(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"",
        b":8005",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"127.0.0.1.nip.io:8005",
        b"evil.llm.example",
        b"llm.example.evil.example",
        b"wild.example",
        b"notwild.example",
        b"notlocalhost",
        b"user@localhost",
        b"localhost:8005@evil.example",
        b"localhost:x",
        b"[::1",
        b"[::1]evil.example",
        b"::1",
        b"*",
        b"*.wild.example.evil.example",
        b"0x7f000001.evil.example",
        b"local host",
        "l\xf6calhost".encode("latin-1"),
    ],
)
def test_not_ours(host: bytes | None) -> None:
    names = ServerNames(["llm.example", "*.wild.example"])
    assert not names.know(host)
    assert not names.seen


def test_any() -> None:
    assert ServerNames(["*"]).know(b"evil.example")
    assert not ServerNames(["*"]).know(b"")


def test_what_is_remembered_is_bounded_and_only_what_is_ours() -> None:
    names = ServerNames()
    for number in range(2 * MEMO_ENTRIES):
        assert names.know(b"%d.localhost:8005" % number)
    assert names.know(b"a" * 4000 + b".localhost")
    assert len(names.seen) == MEMO_ENTRIES
    assert max(map(len, names.seen)) < 300


def test_a_name_without_its_port() -> None:
    assert name_of(b"[::1]:8005") == "::1"
    assert name_of(b"A.example.:80") == "a.example"
