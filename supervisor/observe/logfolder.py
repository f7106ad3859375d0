"""The folder of the log files as a whole: it never fills a disk, and never takes more than its share.

Only files that llmsup itself makes are counted and removed: the folder may be somebody else's too (/var/log).
Stateless, so that each file's own thread may call it.
"""

import contextlib
import errno
import os
import re
from pathlib import Path

from supervisor.types import GIB, MIB

FILE_BYTES = 10 * MIB
FILE_COPIES = 5
FOLDER_BYTES = GIB  # all files together, unless the ones being written alone need more
# Free space below which nothing is written, so that whoever shares the disk (the state, the system) has some
# left: 1 % of the disk, but 64 MiB where that is less, but no more than a tenth of a small disk or 1 GiB of a large.
FREE_SHARE, FREE_BYTES, FREE_SHARE_SMALL, FREE_BYTES_MOST = 0.01, 64 * MIB, 0.1, GIB

_OURS = re.compile(r"(?:llmsup(?:-[a-z]+)?|llama-server\..+)\.log(?:\.(?P<copy>\d+))?")


def check_free(folder: Path) -> None:
    """Raises OSError (ENOSPC) when the disk has too little left."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return  # what is wrong shows when the file is opened
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    if free < _floor(total):
        raise OSError(
            errno.ENOSPC, f"only {free // MIB} MiB free on the disk: nothing is written until there is more"
        )


def _floor(total: int) -> float:
    return min(max(FREE_SHARE * total, min(FREE_BYTES, FREE_SHARE_SMALL * total)), FREE_BYTES_MOST)


def make_room(folder: Path) -> None:
    """Remove the oldest rotated files until all fit, those in use counted as full already."""
    in_use, rotated = 0, []
    for entry in os.scandir(folder):
        found = _OURS.fullmatch(entry.name)
        if found is None:
            continue
        if found["copy"] is None:
            in_use += 1
            continue
        with contextlib.suppress(OSError):  # gone since
            facts = entry.stat(follow_symlinks=False)
            rotated.append((facts.st_mtime, facts.st_size, entry.path))
    total = in_use * FILE_BYTES + sum(size for _, size, _ in rotated)
    for _, size, path in sorted(rotated):
        if total <= FOLDER_BYTES:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size


def shift(path: Path) -> None:
    """child.log.4 -> .5, ..., child.log -> .1"""
    for n in range(FILE_COPIES, 0, -1):
        older = path if n == 1 else path.with_name(f"{path.name}.{n - 1}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(older, path.with_name(f"{path.name}.{n}"))
