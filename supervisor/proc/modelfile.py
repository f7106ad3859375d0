"""A look at a model file before a process is spent on it: what is plainly wrong is said at once."""

import os
import stat
from pathlib import Path

from supervisor.proc.causes import Cause

MAGIC = b"GGUF"


def check(path: Path) -> Cause | None:
    """None: nothing is plainly wrong. Reads four bytes; may block on a slow file system, so call it in a thread."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Cause("model_unreadable", f"{path} is a directory, not a GGUF file", permanent=True)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        return Cause("model_missing", f"{path} does not exist", permanent=True)
    except PermissionError:
        return Cause("model_unreadable", f"{path} may not be read by uid {os.geteuid()}", permanent=True)
    except OSError as exc:
        return Cause("model_unreadable", f"{path}: {exc.strerror}", permanent=True)
    if not magic:
        return Cause("model_corrupt", f"{path} is empty", permanent=True)
    if magic != MAGIC:
        return Cause("model_corrupt", f"{path} is not a GGUF file: it begins with {magic!r}", permanent=True)
    return None
