"""What is seen of a living run beside its words: its memory, and whether the kernel kills for lack of it."""

from collections import deque
from collections.abc import Callable

from supervisor.clock import Clock
from supervisor.proc import vitals
from supervisor.types import MIB

FIRST_LOOK_S = 0.1  # a load that takes all memory may be over in a second
LOOK_EVERY_S = 2.0
# The kernel counts before the victim is gone, so the newest looks may have the death in them already; older than
# these, a grown counter was about somebody else.
LOOKS = 3


class Witness:
    """Of one run. A look costs 80 microseconds."""

    def __init__(self, pid: int, oom_kills: Callable[[], int | None]) -> None:
        self.rss_bytes: int | None = None  # at the last look that found a living process
        self._pid = pid
        self._oom_kills = oom_kills
        self._counts: deque[int | None] = deque(maxlen=LOOKS)
        self.look()

    def look(self) -> None:
        signs = vitals.read(self._pid)
        if signs is not None and signs.rss_bytes:  # a zombie has none
            self.rss_bytes = signs.rss_bytes
        self._counts.append(self._oom_kills())

    async def watch(self, clock: Clock) -> None:
        """For ever, ever less often."""
        pause = FIRST_LOOK_S
        while True:
            await clock.sleep(pause)
            self.look()
            pause = min(pause * 2, LOOK_EVERY_S)

    def out_of_memory(self) -> str:
        """The evidence that the kernel has just killed one of our cgroup for lack of memory; "" without."""
        before, now = self._counts[0], self._oom_kills()
        if before is None or now is None or now <= before:
            return ""
        held = f"; it held {self.rss_bytes / MIB:.0f} MiB when last looked at" if self.rss_bytes else ""
        return f"the kernel's oom_kill counter of our cgroup went from {before} to {now}{held}"
