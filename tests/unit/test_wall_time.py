"""FAULTS 27: a clock that is set by a day restarts nothing, for nothing decides by the time of day."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest

from supervisor.clock import SystemClock
from supervisor.proc.hang import Standing
from tests.support.proc import stage

PACKAGE = Path(__file__).parents[2] / "supervisor"
WALL = re.compile(
    r"\btime\.(time|time_ns|localtime|gmtime|ctime|strftime)\(|\bfrom time import|\bdate(time)?\.(now|utcnow|today)\("
)
# The clock itself; what is shown to a person, in the log of requests too; when keys were made and expire; ages of
# published builds, told by files.
MAY = {
    "clock.py",
    "cli/keys.py",
    "cli/sight.py",
    "cli/why.py",
    "doctor/exposed.py",
    "proc/building/build.py",
    "proxy/accesslog.py",
}


@pytest.mark.fault(27)
def test_only_these_read_the_time_of_day() -> None:
    readers = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if WALL.search(path.read_text())
    }
    assert readers <= MAY


@pytest.mark.fault(27)
def test_the_clock_that_decides_is_the_monotonic_one() -> None:
    before = time.monotonic()
    assert before <= SystemClock().now() <= time.monotonic()


@pytest.mark.fault(27)
@pytest.mark.anyio
@pytest.mark.parametrize("by", [timedelta(days=1), timedelta(days=-1)])
async def test_a_clock_set_by_a_day_changes_nothing(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Not for those that serve, idle or busy, and no delay becomes shorter or longer."""
    async with stage(monkeypatch, "demo", "waits", startup_stall_s=60.0) as on:
        await on.fleet.start_all()
        await on.clock.advance(1)
        on.traffic.standing_now = Standing(1, 0.0)
        on.launchers["waits"].runs[-1].die(code=1)
        await on.clock.settle()
        waits = on.fleet.find("waits")
        assert waits.view().state == "BACKOFF"
        seen = len(on.views)
        on.clock.set_wall(by)
        await on.clock.advance(0.9)
        assert len(on.views) == seen  # nobody did anything
        await on.clock.advance(0.2)
        assert (waits.view().state, waits.view().generation) == ("READY", 2)
        for _ in range(50):  # its bytes go on
            await on.clock.advance(1)
        assert (on.view.state, on.view.generation, on.view.suspect) == ("READY", 1, None)
