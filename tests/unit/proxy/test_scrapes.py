"""Who may scrape, on paper; tests/integration/test_metrics.py asks a daemon."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import Forbidden
from supervisor.keys.key import Scope
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import ANONYMOUS, Client, Exchange
from supervisor.proxy.origins import Origins
from supervisor.proxy.scrapes import checker
from supervisor.proxy.server_names import ServerNames

HERE = (b"Host", b"127.0.0.1:8005")
KEY = (b"Authorization", b"Bearer llmsup_01234567_" + b"a" * 43)


def asking(
    *fields: tuple[bytes, bytes], peer: str = "127.0.0.1", path: bytes = b"/metrics", method: bytes = b"GET"
) -> Any:
    row = Exchange(SimpleNamespace(current=None), method, path, read_request(fields, small=True), peer)
    row.path = path
    return row


class Known:
    """`Identity`, which takes everybody for the one client."""

    def __init__(self, *scopes: Scope) -> None:
        key = SimpleNamespace(scopes=frozenset(scopes)) if scopes else None
        self.client: Any = Client("key:x", b"key:x", key=key) if key else ANONYMOUS  # type: ignore[arg-type]

    def is_admin(self, exchange: Exchange) -> bool:
        return self.has_scope(exchange, frozenset({Scope.ADMIN}))

    def has_scope(self, _: Exchange, wanted: frozenset[Scope]) -> bool:
        return self.client.key is not None and not wanted.isdisjoint(self.client.key.scopes)


def may(row: Exchange, known: Any, *, on_loopback: bool) -> bool:
    try:
        return checker(known, Origins(ServerNames()), on_loopback=on_loopback)(row)
    except Forbidden as refused:
        return "--scope metrics" not in refused.hint  # which says how one may


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (asking(HERE), True),
        (asking((b"Host", b"[::1]:8005"), peer="::1"), True),
        (asking(HERE, method=b"HEAD"), True),
        (asking(HERE, peer="192.0.2.1"), False),
        (asking(HERE, (b"X-Forwarded-For", b"127.0.0.1")), False),
        (asking(HERE, (b"Via", b"1.1 proxy")), False),
        (asking(HERE, (b"Origin", b"https://app.example")), False),
        (asking(HERE, (b"Sec-Fetch-Site", b"same-site")), False),
        (asking((b"Host", b"evil.example")), False),
        (asking(HERE, method=b"POST"), False),
        (asking(HERE, path=b"/metrics/x"), False),
        (asking(HERE, path=b"/slots"), False),
        (asking(HERE, KEY), False),
    ],
)
def test_without_a_key_only_who_sits_at_this_machine_and_only_where_that_is_wanted(
    row: Exchange, expected: bool
) -> None:
    assert may(row, Known(), on_loopback=True) is expected
    assert not may(row, Known(), on_loopback=False)


def test_a_key_of_one_of_two_scopes_may_from_everywhere() -> None:
    row = asking(HERE, KEY, peer="192.0.2.1")
    assert may(row, Known(Scope.ADMIN), on_loopback=False)
    assert may(row, Known(Scope.METRICS, Scope.INFERENCE), on_loopback=False)
    assert not may(row, Known(Scope.INFERENCE), on_loopback=True)


def test_the_scope_metrics_is_good_for_nothing_else() -> None:
    for other in (asking(HERE, KEY, path=b"/slots"), asking(HERE, KEY, method=b"POST")):
        assert not may(other, Known(Scope.METRICS), on_loopback=True)
        assert may(other, Known(Scope.ADMIN), on_loopback=True)
