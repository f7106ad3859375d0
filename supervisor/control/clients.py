"""Who asks, as JSON: what is in flight of each client, beside what is known of their limits."""

from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.proxy.inflight import Exchange
from supervisor.ratelimit.limiter import Standing


def use_of(standings: Iterable[Standing]) -> list[dict[str, Any]]:
    """How each limit of a client stands. ``reset_s``: until all of it may be used again."""
    return [
        {
            "name": one.limit.name,
            "limit": one.limit.rate.quota,
            "remaining": one.remaining,
            "reset_s": round(one.reset_ns / 1e9, 1),
        }
        for one in standings
    ]


def table(rows: Iterable[Exchange], known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``known``: of clients by name, whatever else is to be told of each (`pool`, `limits`). Busiest first."""
    found: dict[str, dict[str, Any]] = {
        name: {"client": name, "pool": "", "in_flight": 0, "queued": 0} | dict(facts)
        for name, facts in known.items()
    }
    for row in rows:
        client = row.client
        entry = found.setdefault(
            client.name, {"client": client.name, "pool": client.pool, "in_flight": 0, "queued": 0}
        )
        entry["pool"] = entry["pool"] or client.pool
        entry["queued" if row.waiting_since else "in_flight"] += 1
    return sorted(found.values(), key=lambda one: (-one["in_flight"] - one["queued"], one["client"]))
