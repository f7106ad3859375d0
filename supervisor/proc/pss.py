"""A child's proportional share of memory: pages it has in common with others counted in parts (kernel: Pss).

Of weights that several processes have mapped from one file, each is counted with its share, where the sum of
RSS counts them again and again. The kernel walks all page tables for it, 11 ms for each GiB (LLAMA_SERVER has the
same), so it is asked rarely, for what is not too large, and in a daemon thread of its own: never by the event loop,
and a process that sits in a driver must hold up neither the loop nor the end of llmsup.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from supervisor.proc import vitals
from supervisor.types import GIB, KIB

log: structlog.stdlib.BoundLogger = structlog.get_logger("pss")

EVERY_S = 60.0
LOOK_S = 5.0  # for children that are new
LARGEST_BYTES = 16 * GIB  # of RSS: a fifth of a second of one core a minute, and no more
PROC = Path("/proc")


class PssMemory:
    """``pids``: of the children there are now; asked by the thread."""

    def __init__(
        self,
        pids: Callable[[], Iterable[int]],
        *,
        measure: Callable[[int], int | None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pids = pids
        self._measure = measure or read
        self._now = now
        self._end = threading.Event()
        self._seen: Mapping[int, tuple[float, int | None]] = {}  # when, bytes; replaced whole, never altered

    def start(self) -> None:
        """Begin to look. A machine that cannot spare a thread goes without."""
        try:
            threading.Thread(target=self._keep, name="pss", daemon=True).start()
        except RuntimeError as exc:
            log.info("proportional memory is not watched", why=str(exc))

    def stop(self) -> None:
        self._end.set()

    def of(self, pid: int) -> int | None:
        """Bytes when last looked at, a minute ago at most; None: not known."""
        return self._seen.get(pid, (0.0, None))[1]

    def look(self) -> None:
        """Ask for those that are new or whose figure is old."""
        now, before = self._now(), self._seen
        fresh: dict[int, tuple[float, int | None]] = {}
        for pid in self._pids():
            known = before.get(pid)
            fresh[pid] = (
                known if known is not None and now - known[0] < EVERY_S else (now, self._measure(pid))
            )
        self._seen = fresh

    def _keep(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # the next look may well succeed
                log.exception("look at proportional memory failed")
            if self._end.wait(LOOK_S):
                return


def read(pid: int, *, proc: Path = PROC, largest_bytes: int = LARGEST_BYTES) -> int | None:
    """Bytes; None: too large to be asked for, not ours to read, no such process, or no such file (not Linux)."""
    signs = vitals.read(pid)
    if signs is None or signs.rss_bytes > largest_bytes:
        return None
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    return None
