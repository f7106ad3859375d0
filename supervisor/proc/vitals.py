"""What the kernel says of a process: memory, processor time, bytes read, scheduling state.

``statm`` and ``stat`` cost 15 microseconds each; ``smaps`` and its sum cost 11 ms per GiB and are left to `pss`.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Vitals:
    """``state`` is the kernel's letter (R, S, D, T, Z, ...) for the main thread, or "" where unknown;
    ``major_faults`` counts pages that had to be read from the disk.
    """

    rss_bytes: int
    cpu_s: float
    io_bytes: int
    state: str
    major_faults: int = 0


def read(pid: int) -> Vitals | None:
    """None: there is no such process (any more)."""
    return _read_proc(pid) if sys.platform.startswith("linux") else _read_psutil(pid)


def _read_proc(pid: int) -> Vitals | None:
    folder = Path("/proc") / str(pid)
    try:
        fields = _stat(folder)
        rss = int((folder / "statm").read_text().split()[1]) * _PAGE
        io = _io_bytes(folder / "io")
    except (OSError, ValueError, IndexError):
        return None
    return Vitals(rss, (int(fields[11]) + int(fields[12])) / _TICKS, io, fields[0], int(fields[9]))


def any_alive(group: int) -> bool:
    """Whether a member of the process group still runs: zombies do not. True where nobody can tell."""
    if not sys.platform.startswith("linux"):
        return True
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, _, of = _stat(Path("/proc") / name)[:3]
            except (OSError, ValueError):
                continue  # gone since
            if int(of) == group and state not in {"Z", "X"}:
                return True
    return False


def _stat(folder: Path) -> list[str]:
    """The fields after the name: state, parent, group, ... The name may hold anything, brackets too."""
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _io_bytes(path: Path) -> int:
    try:
        return int(path.read_text().split("\n", 1)[0].removeprefix("rchar:"))
    except (OSError, ValueError):
        return 0  # not ours to read (hardened kernel): the other signs remain


def _read_psutil(pid: int) -> Vitals | None:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return Vitals(process.memory_info().rss, times.user + times.system, 0, "")
    except psutil.Error:
        return None
