"""A lock for each model that is held by its llama-server, not by us, until the last process of that tree has gone.

The descriptor is inherited through fork and exec, and the kernel drops the lock with the last copy of it. So it
needs no cleaning up, knows no pids, and cannot lie about who lives (s6 calls the same thing lock-fd).
"""

import fcntl
import os
from pathlib import Path
from urllib.parse import quote


def path_of(folder: Path, model: str) -> Path:
    """The prefix keeps a model from being called as the daemon's own lock is."""
    return folder / f"model.{quote(model, safe='')}.lock"


def paths(folder: Path) -> list[Path]:
    """Of all models that ever had one here."""
    return sorted(folder.glob("model.*.lock"))


def take(path: Path) -> int:
    """An open descriptor with the lock, for the child to inherit; close it here once that has it.

    Raises:
        BlockingIOError: some process of an earlier child lives.
        OSError: no folder, no room, no descriptor.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_held(path: Path) -> bool:
    """Whether a process of that model lives. False where nobody can tell."""
    try:
        os.close(take(path))
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
