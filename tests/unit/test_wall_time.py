"""FAULTS 27: a clock that is set by a day restarts nothing, for nothing decides by the time of day."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "supervisor"
WALL = re.compile(r"\btime\.time\(|\bdatetime\.(now|utcnow|today)\(")
# The clock itself; ages shown to a person; ages of published builds, which are told by files.
MAY = {"clock.py", "cli/why.py", "proc/building/build.py"}


def test_only_these_read_the_time_of_day() -> None:
    readers = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if WALL.search(path.read_text())
    }
    assert readers <= MAY
