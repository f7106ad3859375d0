"""Which pages may ask: what their browsers say, and under which name."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import MisdirectedRequest, OriginNotAllowed
from supervisor.proxy.headers import RequestFields, read_request
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.origins import Origins
from supervisor.proxy.server_names import ServerNames

HOST = b"127.0.0.1:8005"
OWN = b"http://127.0.0.1:8005"
APP = b"https://app.example"
CHROMIUM = (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64) Chrome/140")
Field = tuple[bytes, bytes]


def fields(*given: Field, host: bytes | None = HOST) -> RequestFields:
    return read_request((*([(b"Host", host)] if host is not None else []), *given), small=True)


def asking(
    *given: Field,
    host: bytes | None = HOST,
    loopback: bool = True,
    method: bytes = b"POST",
    target: bytes = b"/x",
) -> Any:
    connection: Any = SimpleNamespace(on_loopback=loopback)
    return Exchange(connection, method, target, fields(*given, host=host), "127.0.0.1")


def origins(*allowed: str, names: tuple[str, ...] = ("llm.example",)) -> Origins:
    return Origins(ServerNames(names), allowed)


def test_what_is_no_browser_says_nothing() -> None:
    for host in (HOST, b"localhost", b"llmsup:8005", b"llm.example", b"", None):
        origins().check(asking(host=host))


@pytest.mark.parametrize("origin", [OWN, b"https://127.0.0.1:8005"])
@pytest.mark.parametrize("site", [None, b"same-origin", b"none"])
def test_our_own_page(origin: bytes, site: bytes | None) -> None:
    said = [(b"Sec-Fetch-Site", site)] if site is not None else []
    origins().check(asking((b"Origin", origin), *said))
    assert origins().are_own(fields((b"Origin", origin), *said))


def test_a_page_that_only_reads_says_no_origin() -> None:
    origins().check(asking((b"Sec-Fetch-Site", b"same-origin"), method=b"GET"))
    origins().check(asking((b"Sec-Fetch-Site", b"none"), method=b"GET"))


@pytest.mark.parametrize(
    "origin",
    [
        b"http://127.0.0.1:3000",
        b"http://127.0.0.1",
        b"http://localhost:8005",
        b"http://evil.example",
        b"http://127.0.0.1:8005.evil.example",
        b"http://evil.example/127.0.0.1:8005",
        b"http://user@evil.example",
        b"null",
        b"",
        b"http://",
        b"http://[::1",
        b"file://127.0.0.1:8005",
        b"chrome-extension://abcdef",
        OWN + b"," + OWN,
    ],
)
def test_a_page_of_another_origin(origin: bytes) -> None:
    for method in (b"GET", b"POST", b"OPTIONS"):
        with pytest.raises(OriginNotAllowed, match=r"may not ask here.*allow_origins"):
            origins("https://app.example").check(asking((b"Origin", origin), method=method))
    assert not origins().are_own(fields((b"Origin", origin)))


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"", b"Same-Origin"])
def test_a_browser_that_says_where_it_is_from_is_believed(site: bytes) -> None:
    """Simple reads have no Origin; other ports of localhost are the same site."""
    for said in ((), ((b"Origin", OWN),)):
        with pytest.raises(OriginNotAllowed):
            origins().check(asking((b"Sec-Fetch-Site", site), *said, method=b"GET"))


def test_a_page_that_is_named_may() -> None:
    named = origins("https://app.example")
    named.check(asking((b"Origin", APP), (b"Sec-Fetch-Site", b"cross-site")))
    assert not named.are_own(fields((b"Origin", APP)))
    with pytest.raises(OriginNotAllowed):
        named.check(asking((b"Sec-Fetch-Site", b"cross-site")))  # who knows of whom it is
    origins("*").check(asking((b"Sec-Fetch-Site", b"cross-site")))
    origins("*").check(asking((b"Origin", b"null")))


@pytest.mark.parametrize("target", [b"/llmsup", b"/llmsup/", b"/llmsup/?x"])
def test_a_link_may_lead_to_the_page_and_to_nothing_else(target: bytes) -> None:
    site = (b"Sec-Fetch-Site", b"cross-site")
    origins().check(asking(site, method=b"GET", target=target))
    for method, other in ((b"POST", target), (b"GET", b"/llmsup/status"), (b"GET", b"/v1/models")):
        with pytest.raises(OriginNotAllowed):
            origins().check(asking(site, method=method, target=other))
    with pytest.raises(OriginNotAllowed):
        origins().check(asking((b"Origin", b"http://evil.example"), method=b"GET", target=target))


@pytest.mark.parametrize(
    "host", [b"evil.example:8005", b"127.0.0.1.evil.example", b"localhost.evil.example", b"x:1"]
)
@pytest.mark.parametrize("loopback", [True, False])
def test_a_rebound_name_is_refused_from_a_browser_wherever_it_comes_in(host: bytes, loopback: bool) -> None:
    for said in ((b"Origin", b"http://" + host), (b"Sec-Fetch-Site", b"same-origin"), CHROMIUM):
        with pytest.raises(MisdirectedRequest, match=r"proxy\.server_names"):
            origins().check(asking(said, host=host, loopback=loopback))


def test_on_loopback_a_foreign_domain_is_refused_from_everybody() -> None:
    """A browser's plain read by http says nothing of itself that a page could not change."""
    with pytest.raises(MisdirectedRequest):
        origins().check(asking(host=b"evil.example"))
    origins().check(asking(host=b"llmsup.models.svc.cluster.local", loopback=False))


def test_a_proxy_that_has_changed_the_name() -> None:
    said = (b"Origin", b"https://llm.example")
    assert not origins().are_own(fields(said))
    assert origins().are_own(fields(said, (b"Sec-Fetch-Site", b"same-origin")))
    evil = (b"Origin", b"https://evil.example")
    assert not origins().are_own(fields(evil, (b"Sec-Fetch-Site", b"same-origin")))


def test_usual_requests_are_looked_at_once() -> None:
    names = ServerNames()
    guard = Origins(names)
    looked = []
    guard.check = lambda exchange: looked.append(names.know(exchange.fields.host))  # type: ignore[method-assign]
    decide = guard.before(lambda _: None)
    for _ in range(3):
        decide(asking())
    assert looked == [True]


def test_what_is_refused_is_told_by_its_path() -> None:
    row = asking((b"Origin", b"null"), target=b"/v1/chat/completions?x=1")
    with pytest.raises(OriginNotAllowed):
        origins().check(row)
    assert row.path == b"/v1/chat/completions"
