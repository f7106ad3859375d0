"""A line a minute with what one asks for after the fact."""

import asyncio
import json
from typing import Any

import pytest

from supervisor.control.figures import PERIOD_S, Figures
from tests.support.clock import FakeClock

pytestmark = pytest.mark.anyio

STATUS: dict[str, Any] = {
    "uptime_s": 5.0,
    "memory": {"daemon_rss_bytes": 7, "children_rss_bytes": 8},
    "requests": {"in_flight": 1, "queued": 2, "total": 9, "failed": 3},
    "models": [
        {
            "name": "demo",
            "state": "READY",
            "generation": 3,
            "restarts": 2,
            "rss_bytes": 8,
            "slots": {"total": 4, "busy": 1},
            "last_death": None,
        }
    ],
}


class Paper:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def put(self, data: bytes) -> None:
        assert data.endswith(b"\n")
        self.lines.append(json.loads(data))


async def test_a_line_at_once_and_one_a_minute() -> None:
    clock, paper = FakeClock(), Paper()
    job = asyncio.create_task(Figures(lambda: STATUS, paper, clock).keep())  # type: ignore[arg-type]
    await clock.settle()
    (line,) = paper.lines
    assert line["models"] == {
        "demo": {"state": "READY", "generation": 3, "restarts": 2, "rss_bytes": 8, "slots_busy": 1}
    }
    assert line["requests"] == STATUS["requests"]
    assert (line["uptime_s"], line["rss_bytes"], line["loop_lag_s"]) == (5.0, 7, 0.0)
    assert line["cpu_s"] > 0
    assert line["open_fds"] > 0
    assert line["threads"] >= 1
    assert line["time"].endswith("+00:00")
    for _ in range(PERIOD_S):
        await clock.advance(1.0)
    assert len(paper.lines) == 2
    job.cancel()


async def test_an_error_costs_one_line_and_no_more() -> None:
    clock, paper, broken = FakeClock(), Paper(), [True]

    def status() -> dict[str, Any]:
        if broken:
            raise ValueError(broken.pop())
        return STATUS

    job = asyncio.create_task(Figures(status, paper, clock).keep())  # type: ignore[arg-type]
    await clock.settle()
    assert not paper.lines
    for _ in range(PERIOD_S):
        await clock.advance(1.0)
    assert len(paper.lines) == 1
    job.cancel()
