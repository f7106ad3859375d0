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
    """As `held`, of a model: whether a process of it lives. False where nobody can tell."""
    try:
        return held(path)
    except OSError:
        return False


def held(path: Path) -> bool:
    """Whether a process has this lock file's lock. A shared one is taken for a moment: who asks is in nobody's way
    but a taker's, and those try again.

    Raises:
        OSError: it cannot be opened; FileNotFoundError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
