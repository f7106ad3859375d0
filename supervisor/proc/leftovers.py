"""Which processes of this machine are llama-servers that an earlier daemon of ours left behind, and their end.

The kernel's parent-death signal ends children with the daemon, but not everywhere and not always (another
operating system, a program that changes its user). So each spawn is written down, and the next start looks.

Invariant: no process gets a signal unless two independent marks say that it is ours. A pid alone says nothing:
it is a stranger's by now, if it is anybody's (FAULTS 24, 25; Nomad #23969 killed by pid alone).
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from supervisor.proc.command import MARKER

log: structlog.stdlib.BoundLogger = structlog.get_logger("leftovers")

FILE_NAME = "children.json"
SCHEMA = 1
PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
READ_MAX_BYTES = 1 << 20  # some thousand children
NEEDED = 2  # marks of the four
GONE_WITHIN_S = 5.0  # SIGKILL is at once, unless the process sits in a driver
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Record:
    """One spawn. ``started``: clock ticks since boot; ``exe``: device and inode of the program."""

    boot_id: str
    pid: int
    started: int
    marker: str
    exe: str
    model: str
    generation: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it is now. ``marker`` and ``exe`` are "" where there is none, or none to be read;
    ``lock``: it holds one of our models' locks (`lifelock`) open.
    """

    pid: int
    started: int
    marker: str
    exe: str
    lock: bool


# ---- the decision


def marks(seen: Seen, records: Iterable[Record], *, boot_id: str, home: str) -> tuple[str, ...]:
    """What says that the process is ours: of "record", "marker", "program" and "lock"."""
    records = tuple(records)
    same = (seen.pid, seen.started)
    found = {
        "record": bool(boot_id)
        and any(record.boot_id == boot_id and (record.pid, record.started) == same for record in records),
        "marker": seen.marker.startswith(f"{home}:"),
        "program": bool(seen.exe) and any(record.exe == seen.exe for record in records),
        "lock": seen.lock,
    }
    return tuple(name for name, holds in found.items() if holds)


def left_over(
    processes: Iterable[Seen], records: Iterable[Record], *, boot_id: str, home: str
) -> Iterator[tuple[Seen, tuple[str, ...]]]:
    """Those that are ours beyond doubt, each with what says so."""
    records = tuple(records)
    for seen in processes:
        why = marks(seen, records, boot_id=boot_id, home=home)
        if len(why) >= NEEDED:
            yield seen, why


# ---- the record on disk


def dump(records: Iterable[Record], path: Path) -> None:
    """Replace the file in one step. Not synced: it is worth nothing after the machine has gone down.

    Raises:
        OSError: no room, no folder.
    """
    fresh = path.with_suffix(".new")
    text = json.dumps({"schema": SCHEMA, "children": [asdict(record) for record in records]})
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.replace(fresh, path)


def recorded(path: Path) -> tuple[Record, ...]:
    """What the file says; nothing when there is none or it makes no sense, which is said in the log."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            document = json.loads(file.read(READ_MAX_BYTES))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        return tuple(_record(item) for item in document["children"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        log.warning("record of children is unreadable; going by their marks", path=str(path), error=repr(exc))
        return ()


def _record(item: dict[str, object]) -> Record:
    record = Record(**item)  # type: ignore[arg-type]  # the next lines look
    whole = (record.pid, record.started, record.generation)
    texts = (record.boot_id, record.marker, record.exe, record.model)
    if not all(type(one) is int for one in whole) or not all(isinstance(one, str) for one in texts):
        raise TypeError("a field is of another kind")
    return record


# ---- the machine


def boot_id() -> str:
    """The name of this boot; "" where the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def file_id(path: Path) -> str:
    """Device and inode of what the path leads to; "" for nothing."""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{facts.st_dev}:{facts.st_ino}"


def started(pid: int) -> int | None:
    """Field 22 of ``stat``: with the pid and the boot it names one process for ever. None: there is none."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in {"Z", "X"} else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def look(pid: int, locks: frozenset[str]) -> Seen | None:
    """None: gone, or a zombie."""
    begun = started(pid)
    if begun is None:
        return None
    folder = PROC / str(pid)
    return Seen(pid, begun, _marker(folder), file_id(folder / "exe"), bool(locks) and _holds(folder, locks))


def _marker(folder: Path) -> str:
    try:
        entries = (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # not ours to read
        return ""
    prefix = f"{MARKER}=".encode()
    return next((os.fsdecode(entry[len(prefix) :]) for entry in entries if entry.startswith(prefix)), "")


def _holds(folder: Path, locks: frozenset[str]) -> bool:
    try:
        names = os.listdir(folder / "fd")
    except OSError:
        return False
    return any(file_id(folder / "fd" / name) in locks for name in names)


def processes(locks: frozenset[str]) -> Iterator[Seen]:
    """All living ones of this user but ourselves; nothing where the system has no /proc."""
    try:
        names = os.listdir(PROC)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            own = name.isdigit() and int(name) != os.getpid()
            if own and (PROC / name).stat().st_uid == os.geteuid():
                seen = look(int(name), locks)
                if seen is not None:
                    yield seen


def end(seen: Seen) -> None:
    """SIGKILL, to its whole group when it leads one: a server that hangs would not hear anything else.

    The descriptor pins the process, so that the number cannot pass to a stranger between the look and the signal.
    """
    try:
        pinned = os.pidfd_open(seen.pid)
    except OSError:  # gone; or a kernel before 5.3, where the moment in between is the risk
        pinned = -1
    try:
        if started(seen.pid) != seen.started:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(seen.pid) == seen.pid:
                os.killpg(seen.pid, signal.SIGKILL)
            else:
                os.kill(seen.pid, signal.SIGKILL)
    finally:
        if pinned >= 0:
            os.close(pinned)


def await_gone(ended: Iterable[Seen], within_s: float = GONE_WITHIN_S) -> list[Seen]:
    """Those that live on all the same. Blocks for as long as that takes."""
    deadline = time.monotonic() + within_s
    left = list(ended)
    while left := [seen for seen in left if started(seen.pid) == seen.started]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return left
