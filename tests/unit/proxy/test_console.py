"""Who sits at this machine; tests/integration/test_daemon_console.py asks a daemon."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.proxy.console import sits_here
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange

HOST = b"127.0.0.1:8005"


def asking(peer: str = "127.0.0.1", *given: tuple[bytes, bytes], host: bytes = HOST) -> Any:
    connection: Any = SimpleNamespace()
    return Exchange(connection, b"GET", b"/", read_request(((b"Host", host), *given), small=True), peer)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"])
def test_who_sits_here(peer: str) -> None:
    for host in (HOST, b"LocalHost:8005", b"[::1]:8005"):
        assert sits_here(asking(peer, host=host))


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "::", "fe80::1", "unix", ""])
def test_who_does_not(peer: str) -> None:
    assert not sits_here(asking(peer))


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"localhost.evil.example", b"127.0.0.1.nip.io", b""],
)
def test_a_name_that_anybody_may_point_here(host: bytes) -> None:
    assert not sits_here(asking(host=host))


@pytest.mark.parametrize(
    "name",
    [b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded", b"X-Real-IP", b"Via"],
)
def test_what_somebody_has_passed_on(name: bytes) -> None:
    assert not sits_here(asking("127.0.0.1", (name, b"x")))


def test_a_proxy_that_says_nothing_of_itself_speaks_http_1_0() -> None:
    """nginx with nothing but `proxy_pass`."""
    row = asking()
    row.http10 = True
    assert not sits_here(row)
