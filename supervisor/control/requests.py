"""The in-flight table as JSON: what `llmsup requests` shows, oldest first."""

from collections.abc import Iterable
from typing import Any

from supervisor.proxy.inflight import Exchange


def table(rows: Iterable[Exchange], now: float) -> list[dict[str, Any]]:
    """``now``: monotonic seconds, of the clock the rows were written by."""
    return [_row(row, now) for row in sorted(rows, key=lambda row: row.received_at)]


def _row(row: Exchange, now: float) -> dict[str, Any]:
    return {
        "id": row.id.decode("latin-1"),
        "number": row.number,
        "client": row.client.name,
        "method": row.method.decode("latin-1"),
        "path": row.path.decode("latin-1"),
        "model": row.gate.view.name if row.gate is not None else None,
        "phase": _phase(row),
        "age_s": round(max(0.0, now - row.received_at), 3),
        "queue_ms": row.queue_ms,
        "retries": max(0, row.attempts - 1),
        "streamed": row.stream is not None,
        "continued": row.continued,
    }


def _phase(row: Exchange) -> str:
    """``waiting``: for a slot or a child; ``asked``: inside it, no byte of an answer out yet; ``answering``."""
    if row.waiting_since:
        return "waiting"
    return "answering" if row.answering else "asked"
