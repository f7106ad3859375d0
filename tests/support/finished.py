"""Rows of requests that have ended, for whoever counts or tells of them."""

from types import SimpleNamespace
from typing import Any

from supervisor.keys.key import Key
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Client, Exchange
from supervisor.proxy.usage import Usage
from tests.support.proxyrig import view

CHAT = b"/v1/chat/completions"
TRACE = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
GATE = SimpleNamespace(view=view())


def exchange(path: bytes = CHAT, *, fields: tuple[tuple[bytes, bytes], ...] = (), **facts: Any) -> Exchange:
    """Asked at 100 s, sent a millisecond later, answered well; ``facts``: what is different."""
    row = Exchange(
        SimpleNamespace(current=None), b"POST", path, read_request(fields, small=True), "127.0.0.1"
    )  # type: ignore[arg-type]  # of a connection only that much is looked at
    row.id, row.trace, row.path = b"abc-1", TRACE, path
    row.received_at, row.sent_at = 100.0, 100.001
    row.gate, row.status, row.attempts = GATE, 200, 1  # type: ignore[assignment]  # likewise
    row.usage = Usage(10, 20, 5)
    for name, value in facts.items():
        setattr(row, name, value)
    return row


def of_key(name: str) -> Client:
    key = SimpleNamespace(name=name)
    return Client(f"key:{name}", f"key:{name}".encode(), "user", _key(key))


def _key(key: Any) -> Key:
    found: Key = key
    return found
