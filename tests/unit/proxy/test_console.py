"""Whose word counts where no key is shown: pages of ours, and who sits at this machine."""

import pytest

from supervisor.proxy.console import same_origin, sits_here
from supervisor.proxy.headers import RequestFields, read_request

HOST = (b"Host", b"127.0.0.1:8005")


def fields(*given: tuple[bytes, bytes], host: tuple[bytes, bytes] = HOST) -> RequestFields:
    return read_request((host, *given), small=True)


def test_what_is_no_browser_says_nothing_of_origins() -> None:
    assert same_origin(fields(), page=False)


@pytest.mark.parametrize("origin", [b"http://127.0.0.1:8005", b"https://127.0.0.1:8005"])
def test_our_own_page(origin: bytes) -> None:
    assert same_origin(fields((b"Origin", origin), (b"Sec-Fetch-Site", b"same-origin")), page=False)


@pytest.mark.parametrize(
    "origin",
    [
        b"http://127.0.0.1:3000",
        b"http://127.0.0.1",
        b"http://evil.example",
        b"http://127.0.0.1:8005.evil.example",
        b"http://evil.example/127.0.0.1:8005",
        b"http://user@evil.example",
        b"null",
        b"",
        b"http://[::1",
        b"file://127.0.0.1:8005",
        b"http://127.0.0.1:8005,http://127.0.0.1:8005",
    ],
)
def test_a_page_of_another_origin(origin: bytes) -> None:
    for page in (True, False):
        assert not same_origin(fields((b"Origin", origin)), page=page)


def test_without_a_host_no_origin_is_ours() -> None:
    """HTTP/1.0 may leave it out; browsers do not."""
    for origin in (b"", b"null", b"http://"):
        assert not same_origin(read_request(((b"Origin", origin),), small=True), page=True)


@pytest.mark.parametrize(("site", "api"), [(b"none", True), (b"same-site", False), (b"cross-site", False)])
def test_a_link_may_lead_to_the_page_and_to_nothing_else(site: bytes, api: bool) -> None:
    asked = fields((b"Sec-Fetch-Site", site))
    assert same_origin(asked, page=True)
    assert same_origin(asked, page=False) is api


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"])
def test_who_sits_here(peer: str) -> None:
    assert sits_here(peer, fields())
    assert sits_here(peer, fields(host=(b"Host", b"LocalHost:8005")))
    assert sits_here(peer, fields(host=(b"Host", b"[::1]:8005")))


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "::", "fe80::1", "unix", ""])
def test_who_does_not(peer: str) -> None:
    assert not sits_here(peer, fields())


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"localhost.evil.example", b"127.0.0.1.nip.io", b""],
)
def test_a_name_that_anybody_may_point_here(host: bytes) -> None:
    assert not sits_here("127.0.0.1", fields(host=(b"Host", host)))


@pytest.mark.parametrize(
    "name",
    [b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded", b"X-Real-IP", b"Via"],
)
def test_what_somebody_has_passed_on(name: bytes) -> None:
    assert not sits_here("127.0.0.1", fields((name, b"x")))
