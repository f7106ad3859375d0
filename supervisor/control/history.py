"""States, memory and load of the last hour, in a bounded ring: what the dashboard's charts begin with."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from supervisor.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger("history")

PERIOD_S = 5.0
KEPT = 720  # an hour


@dataclass(frozen=True, slots=True)
class Sample:
    """``at``: seconds since 1970; ``models``: name -> (rss_bytes, slots busy, state)."""

    at: float
    in_flight: int
    queued: int
    daemon_rss_bytes: int
    models: Mapping[str, tuple[int, int, str]]


def sample(status: Mapping[str, Any], at: float) -> Sample:
    return Sample(
        at=round(at, 1),
        in_flight=status["requests"]["in_flight"],
        queued=status["requests"]["queued"],
        daemon_rss_bytes=status["memory"]["daemon_rss_bytes"],
        models={
            one["name"]: (one["rss_bytes"], one["slots"]["busy"], str(one["state"]))
            for one in status["models"]
        },
    )


class History:
    def __init__(self, status: Callable[[], Mapping[str, Any]], clock: Clock, *, kept: int = KEPT) -> None:
        self._status = status
        self._clock = clock
        self._ring: deque[Sample] = deque(maxlen=kept)

    def __repr__(self) -> str:
        return f"<History of {len(self._ring)} samples>"

    async def keep(self) -> None:
        """For ever."""
        while True:
            self.look()
            await self._clock.sleep(PERIOD_S)

    def look(self) -> None:
        try:
            self._ring.append(sample(self._status(), self._clock.wall().timestamp()))
        except Exception:  # a chart is worth nobody's life
            log.exception("no sample")

    def as_dict(self) -> dict[str, Any]:
        """In columns. A model that was not there at a time has nulls."""
        ring = list(self._ring)
        names = dict.fromkeys(name for one in ring for name in one.models)
        return {
            "period_s": PERIOD_S,
            "at": [one.at for one in ring],
            "in_flight": [one.in_flight for one in ring],
            "queued": [one.queued for one in ring],
            "daemon_rss_bytes": [one.daemon_rss_bytes for one in ring],
            "models": {name: _series(name, ring) for name in names},
        }


def _series(name: str, ring: list[Sample]) -> dict[str, list[Any]]:
    rows = [one.models.get(name, (None, None, None)) for one in ring]
    return {
        "rss_bytes": [row[0] for row in rows],
        "slots_busy": [row[1] for row in rows],
        "state": [row[2] for row in rows],
    }
