"""A look at a model file before a process is spent on it: what is certainly wrong is said at once.

Certain is what the file's own numbers prove (it ends before its last tensor) and what no llama-server reads.
A header that only our reader refuses may be tomorrow's: llama-server decides then.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from supervisor.proc.causes import Cause
from supervisor.proc.gguf import GgufError, Header, Kind, read_header

# None: a doubt, not a refusal.
CAUSES: dict[Kind, str | None] = {
    "missing": "model_missing",
    "unreadable": "model_unreadable",
    "directory": "model_unreadable",
    "empty": "model_corrupt",
    "not_gguf": "model_corrupt",
    "truncated": "model_corrupt",
    "unsupported_version": "model_unsupported",
    "corrupt": None,
}
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # the machine's fault, not the file's
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})  # a disk or a file server may recover


@dataclass(frozen=True, slots=True)
class Look:
    """``header`` where it could be read; ``cause`` where it certainly cannot be served; neither: a ``doubt``."""

    header: Header | None = None
    cause: Cause | None = None
    doubt: str = ""


def look(path: Path) -> Look:
    """Reads the header only; may block on a slow file system, so call it in a thread.

    Raises:
        OSError: the machine had no descriptor or memory left to look; says nothing about the file.
    """
    try:
        return Look(read_header(path))
    except GgufError as exc:
        why = exc.__cause__ if isinstance(exc.__cause__, OSError) else None
        number = why.errno if why is not None else None
        if why is not None and number in _SHORTAGE:
            raise why from None
        name, detail = CAUSES[exc.kind], exc.message
        if name is None:
            return Look(doubt=detail)
        if number in {errno.EACCES, errno.EPERM}:
            detail = f"{path} may not be read by uid {os.geteuid()}"
        return Look(cause=Cause(name, detail, permanent=number not in _PASSING))


def check(path: Path) -> Cause | None:
    """None: nothing is certainly wrong. Raises OSError as `look` does."""
    return look(path).cause
