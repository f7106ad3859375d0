"""Who may scrape, on paper; tests/integration/test_metrics.py asks a daemon."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.scrapes import may_scrape

HERE = (b"Host", b"127.0.0.1:8005")


def asking(
    *fields: tuple[bytes, bytes], peer: str = "127.0.0.1", path: bytes = b"/metrics", method: bytes = b"GET"
) -> Any:
    row = Exchange(SimpleNamespace(current=None), method, path, read_request(fields, small=True), peer)
    row.path = path
    return row


@pytest.mark.parametrize(
    ("row", "may"),
    [
        (asking(HERE), True),
        (asking((b"Host", b"[::1]:8005"), peer="::1"), True),
        (asking(HERE, method=b"HEAD"), True),
        (asking(HERE, peer="192.0.2.1"), False),
        (asking(HERE, (b"X-Forwarded-For", b"127.0.0.1")), False),
        (asking(HERE, (b"Via", b"1.1 proxy")), False),
        (asking((b"Host", b"evil.example")), False),
        (asking(HERE, method=b"POST"), False),
        (asking(HERE, path=b"/metrics/x"), False),
        (asking(HERE, path=b"/slots"), False),
        (asking(HERE, (b"Authorization", b"Bearer llmsup_01234567_" + b"a" * 43)), False),
    ],
)
def test_without_a_key_only_who_sits_at_this_machine(row: Exchange, may: bool) -> None:
    asked = []

    def is_admin(one: Exchange) -> bool:
        asked.append(one)
        return False

    assert may_scrape(is_admin)(row) is may
    assert asked == ([] if may else [row])


def test_an_admin_may_from_everywhere() -> None:
    assert may_scrape(lambda _: True)(asking(HERE, peer="192.0.2.1"))
