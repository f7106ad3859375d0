"""Who asks, from the in-flight table."""

from types import SimpleNamespace
from typing import Any

from supervisor.control.clients import table, use_of
from supervisor.proxy.inflight import Client
from supervisor.ratelimit.limiter import Limiter
from supervisor.ratelimit.pools import pool


def row(name: str, *, waiting: bool = False) -> Any:
    return SimpleNamespace(client=Client(name, name.encode(), "user"), waiting_since=1.0 if waiting else 0.0)


def test_rows_are_counted_by_client_busiest_first() -> None:
    rows = [row("user:a"), row("user:b"), row("user:b", waiting=True)]
    assert table(rows, {}) == [
        {"client": "user:b", "pool": "user", "in_flight": 1, "queued": 1},
        {"client": "user:a", "pool": "user", "in_flight": 1, "queued": 0},
    ]


def test_what_is_known_beside_is_told_of_idle_ones_too() -> None:
    known = {"key:ci": {"pool": "gold", "limits": [{"policy": "m", "remaining": 3}]}}
    idle = table([], known)
    assert idle == [
        {
            "client": "key:ci",
            "pool": "gold",
            "in_flight": 0,
            "queued": 0,
            "limits": [{"policy": "m", "remaining": 3}],
        }
    ]


def test_how_the_limits_of_those_who_were_seen_last_stand() -> None:
    limiter = Limiter({"anonymous": pool("anonymous", requests_per_minute=60, concurrent=4)})
    limiter.admit("ip:192.0.2.1", "anonymous", 0, 0)
    limiter.admit("ip:192.0.2.2", "anonymous", 0, 0)
    limiter.admit("ip:192.0.2.2", "anonymous", 0, 0)
    assert limiter.lately(1) == [("ip:192.0.2.2", "anonymous")]
    assert [client for client, _ in limiter.lately(9)] == ["ip:192.0.2.2", "ip:192.0.2.1"]
    told = use_of(limiter.standings("ip:192.0.2.2", "anonymous", 0))
    assert told == [{"name": "rpm", "limit": 60, "remaining": 58, "reset_s": 2.0}]
