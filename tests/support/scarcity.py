"""Want of what a machine has too little of: room on a disk, room for processes. Skips where it cannot be brought about."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest

DISK_MB = 16
PIDS = Path("/sys/fs/cgroup/pids")  # of version 1; in version 2 the files are those of the one tree
UNIFIED = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at the folder; skips where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "llmsup-test", str(folder)]
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs a mount command as Linux has it")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Until not one byte more goes in."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    return ballast


@contextlib.contextmanager
def few_processes(daemon: DaemonUnderTest) -> Iterator[Path]:
    """The file that bounds how many processes and threads the daemon and its children may be; skips without."""
    base = PIDS if PIDS.is_dir() else UNIFIED
    folder = base / f"llmsup-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        limit = folder / "pids.max"
        if not limit.exists():
            pytest.skip("this cgroup does not count processes")
        (folder / "cgroup.procs").write_text(str(daemon.pid))  # the children that there are stay outside
        try:
            yield limit
        finally:
            limit.write_text("max")
            daemon.stop()
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():  # back to where they came from
            (base / "cgroup.procs").write_text(pid)
        folder.rmdir()
