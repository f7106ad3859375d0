"""Whether the model file or the binary has become another one, for instances that wait for that.

Polled, because what is watched may be on a file server, behind links or not there yet, and none of that reaches
inotify. Each look is made in a thread; a look every two seconds, and only while an instance is down, is no cost.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from supervisor.clock import Clock

POLL_S = 2.0

# Inode, size in bytes, and the times in nanoseconds of the last change of the content and of anything at all: a
# chmod is a repair too.
Stamp = tuple[int, int, int, int]
Stamps = tuple[Stamp | None, ...]  # of the files that matter, always in the same order


def stamp(path: Path) -> Stamp | None:
    """None: it is not there, or cannot be looked at."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


async def until_changed(look: Callable[[], Awaitable[Stamps]], was: Stamps, clock: Clock) -> None:
    """Return once the files are others than ``was``, all there, and the same at two looks: a copy that is
    still being written is not tried at each look.
    """
    before = was
    while True:
        await clock.sleep(POLL_S)
        try:
            now = await look()
        except (OSError, RuntimeError):  # no thread to be had: not now, then
            continue
        if now != was and now == before and None not in now:
            return
        before = now
