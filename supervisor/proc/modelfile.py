"""A look at a model file before a process is spent on it: what is plainly wrong is said at once."""

import errno
import os
import stat
from pathlib import Path

from supervisor.proc.causes import Cause

MAGIC = b"GGUF"

_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # the machine's fault, not the file's
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})  # a disk or a file server may recover


def check(path: Path) -> Cause | None:
    """None: nothing is plainly wrong. Reads four bytes; may block on a slow file system, so call it in a thread.

    Raises:
        OSError: the machine had no descriptor or memory left to look; says nothing about the file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Cause("model_unreadable", f"{path} is a directory, not a GGUF file", permanent=True)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            return Cause("model_unreadable", f"{path} is not a regular file", permanent=True)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        return Cause("model_missing", f"{path} does not exist", permanent=True)
    except PermissionError:
        return Cause("model_unreadable", f"{path} may not be read by uid {os.geteuid()}", permanent=True)
    except OSError as exc:
        if exc.errno in _SHORTAGE:
            raise
        return Cause("model_unreadable", f"{path}: {exc.strerror}", permanent=exc.errno not in _PASSING)
    if not magic:
        return Cause("model_corrupt", f"{path} is empty", permanent=True)
    if magic != MAGIC:
        return Cause("model_corrupt", f"{path} is not a GGUF file: it begins with {magic!r}", permanent=True)
    return None
