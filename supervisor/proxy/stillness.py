"""For how long nothing has come from a child, and for how long it has done nothing. Seen by the sweep, once a second.

Nothing of this is on the path of a chunk: a sweep compares the newest block of each answer with the one of
the sweep before. A ping looks like progress and is none: llama-server's HTTP threads send it whatever the rest does.
"""

import re
from dataclasses import dataclass

from supervisor.proc import vitals
from supervisor.proc.hang import BUSY_SHARE, Standing

LOOK_GAP_MIN_S = 0.5  # several answers may stand still in one sweep: one look does for all
LOOK_GAP_S = 5.0  # sweeps come once a second while an answer stands still
MAX_PING_BYTES = 256
# Comment lines and empty ones, with the chunks' own lines around them or without.
_PINGS = re.compile(rb"(?:(?:[0-9a-fA-F]+|:[^\n]*)?\r?\n)*")


def is_ping(block: bytes) -> bool:
    """Whether a block of an event stream says nothing."""
    return len(block) <= MAX_PING_BYTES and _PINGS.fullmatch(block) is not None


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep saw. ``watched``: requests inside a slot whose clients read; ``moved``: one of them got on."""

    watched: int
    moved: bool


class Stillness:
    """Of one child. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._watched = 0
        self._moved_at = 0.0
        self._cpu_s = 0.0
        self._looked_at = 0.0
        self._worked_at = 0.0

    def note(self, swept: Swept, now: float) -> None:
        if swept.moved or not self._watched:  # where nothing was, nothing stood still
            self._moved_at = now
        self._watched = swept.watched

    def standing(self, now: float) -> Standing:
        return Standing(self._watched, max(0.0, now - self._moved_at))

    def idle_s(self, pid: int | None, now: float) -> float:
        """For how long the child has not used the processor, as far as it was looked at."""
        gap_s = now - self._looked_at
        if gap_s >= LOOK_GAP_MIN_S:
            signs = vitals.read(pid) if pid is not None else None
            cpu_s = signs.cpu_s if signs is not None else 0.0
            worked = signs is not None and cpu_s - self._cpu_s >= BUSY_SHARE * gap_s
            if worked or gap_s > LOOK_GAP_S:  # after a gap nothing is known: begin anew
                self._worked_at = now
            self._cpu_s, self._looked_at = cpu_s, now
        return now - self._worked_at
