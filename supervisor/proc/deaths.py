"""The last deaths of a daemon's children, kept on disk so that `llmsup why` can tell of them afterwards.

Invariant: at every moment the file, or the copy before it (``.prev``), is a whole document; a crash between two
steps leaves the old one or the new one. What cannot be read is moved aside, never overwritten. Nothing here
may hold up or hurt a child: a disk that is full costs the record of a crash of llmsup itself, no more.
"""

import asyncio
import contextlib
import errno
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from supervisor.clock import Clock
from supervisor.events import Death
from supervisor.types import Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("deaths")

SCHEMA = 1
KEPT = 100  # of all models together, as s6 does
FILE_NAME = "deaths.json"
LINES_KEPT = 20
LINE_CHARS = 400  # a line of 16 KiB, twenty times a hundred, would be 32 MB
WRITE_EVERY_S = 1.0
CLOSE_S = 2.0
RETRY_S = 2.0  # a full disk
ASIDE = 9  # so many unreadable files are kept, then the last is replaced
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
READ_MAX_BYTES = 64 << 20  # no file of ours is a tenth of that


@dataclass(frozen=True, slots=True)
class Entry:
    """``boot_id``: which boot of the machine it was in, "" where that has no name."""

    death: Death
    boot_id: str = ""


# ---- the document


def to_dict(entry: Entry) -> dict[str, Any]:
    """As in the file and in `llmsup why --json`; times of day in ISO 8601 (UTC), sizes in bytes."""
    death = entry.death
    return death.as_dict() | {
        "model": death.model,
        "generation": death.generation,
        "phase": death.phase,
        "evidence": death.evidence,
        "lines": list(death.lines),
        "rss_bytes": death.rss_bytes,
        "then": death.then,
        "degraded": death.degraded,
        "permanent": death.permanent,
        "inside": death.inside,
        "boot_id": entry.boot_id,
    }


def from_dict(data: dict[str, Any]) -> Entry:
    """Raises KeyError, TypeError or ValueError for what `to_dict` did not write."""
    if not all(isinstance(data[name], str) for name in ("at", "cause", "detail", "model")):
        raise TypeError("at, cause, detail and model are texts")
    optional = {"signal": str, "exit_code": int, "rss_bytes": int, "degraded": str}
    if not all(data[name] is None or isinstance(data[name], kind) for name, kind in optional.items()):
        raise TypeError(f"{', '.join(optional)}: one is of another kind")
    death = Death(
        at=datetime.fromisoformat(data["at"]),
        generation=Generation(int(data["generation"])),
        cause=data["cause"],
        signal=data["signal"],
        exit_code=data["exit_code"],
        uptime_s=float(data["uptime_s"]),
        detail=data["detail"],
        permanent=bool(data["permanent"]),
        model=data["model"],
        phase=str(data["phase"]),
        evidence=str(data["evidence"]),
        lines=tuple(str(line) for line in data["lines"]),
        rss_bytes=data["rss_bytes"],
        then=str(data["then"]),
        degraded=data["degraded"],
        inside=int(data.get("inside", 0)),  # a record of llmsup 0.1 has no such thing
    )
    if death.at.tzinfo is None:
        raise ValueError("a time without its zone")
    return Entry(death, str(data["boot_id"]))


def dump(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The document in pieces, a line a death.

    Never in one piece: it is made in a new thread each time, the C library gives that any of its heaps, and each
    heap would keep room for the largest thing ever made in it. No ``indent``: with one, `json` leaves closures
    to the garbage collector.
    """
    yield f'{{"schema": {SCHEMA}, "deaths": ['.encode()
    for number, entry in enumerate(entries):
        # A child's output may hold halves of characters; escaped they are harmless.
        yield (",\n" if number else "\n").encode() + json.dumps(to_dict(entry)).encode("ascii")
    yield b"\n]}\n"


def parse(data: bytes) -> list[Entry]:
    """Oldest first.

    Raises:
        ValueError: it is not a document of this schema.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError("not a document of this schema")
        return [from_dict(item) for item in document["deaths"]]
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
        raise ValueError(f"not a record of deaths: {exc!r}") from exc


# ---- the files


def previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.prev")


def read_one(path: Path) -> list[Entry]:
    """Raises FileNotFoundError, OSError or ValueError."""
    with open(path, "rb", opener=_opener) as file:
        return parse(file.read(READ_MAX_BYTES))


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # not waiting for the writer of a pipe


def read(path: Path) -> tuple[list[Entry], str]:
    """The entries, and what was wrong with the newest file ("" for nothing). Changes nothing: for `why`.

    Raises:
        PermissionError: the file is another user's.
    """
    wrong = ""
    for candidate in (path, previous(path)):
        try:
            return read_one(candidate), wrong
        except FileNotFoundError:
            continue
        except PermissionError:
            raise
        except (OSError, ValueError) as exc:
            wrong = wrong or f"{candidate} cannot be read: {exc}"
    return [], wrong


def recover(path: Path) -> list[Entry]:
    """The entries, for a daemon that goes on with them: what cannot be read is moved to ``.corrupt-<n>``."""
    for candidate in (path, previous(path)):
        try:
            return read_one(candidate)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            aside = _aside(path)
            with contextlib.suppress(OSError):
                os.replace(candidate, aside)
            log.error("record of deaths unreadable", path=str(candidate), moved_to=str(aside), error=str(exc))
    return []


def _aside(path: Path) -> Path:
    names = [path.with_name(f"{path.name}.corrupt-{n}") for n in range(1, ASIDE + 1)]
    return next((name for name in names if not os.path.lexists(name)), names[-1])


def write(path: Path, pieces: Iterable[bytes]) -> None:
    """Put the document in the file's place; the one that was there becomes ``.prev``. Blocks: for a thread.

    Raises:
        OSError: it is not on the disk; the old one still is.
    """
    fresh = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(fresh, flags, 0o600), "wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    _keep_previous(path)
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_previous(path: Path) -> None:
    """A second name for the old file, by way of a third: there is no moment without either."""
    link = path.with_name(f".{path.name}.old")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous(path))
    except FileNotFoundError:
        return  # the first one
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}:
            raise
        # A file system without links: the safety of the rename remains.


# ---- the record


class Deaths:
    """The record in memory, and its way to the disk. Use from one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = ""  # why what happened last is not on the disk; "" when it is
        self._entries: deque[Entry] = deque(recover(path), maxlen=KEPT)
        self._boot_id = boot_id()
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._written: tuple[Entry, ...] = tuple(self._entries)

    def __repr__(self) -> str:
        return f"<Deaths {len(self._entries)} at {self.path}>"

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Oldest first."""
        return tuple(self._entries)

    def add(self, death: Death) -> None:
        """Keep it; it is on the disk a moment later. Never raises, never waits."""
        lines = tuple(line[:LINE_CHARS] for line in death.lines[-LINES_KEPT:])
        self._entries.append(Entry(replace(death, lines=lines), self._boot_id))
        self._news.set()

    async def keep(self, clock: Clock) -> None:
        """For ever: write when there is news, at most once a second."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.flush()
            if self.error:
                self._news.set()
            await clock.sleep(RETRY_S if self.error else WRITE_EVERY_S)

    async def close(self) -> None:
        """The last flush; a disk that hangs is not waited for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.flush()

    async def flush(self) -> None:
        """Write now what is not on the disk yet. Never raises for a disk; see ``error``."""
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        entries = self.entries
        if entries == self._written:
            return
        try:
            await _in_thread(partial(_write, self.path, entries))
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread to be had
            said = (
                f"{self.path}: {exc.strerror or exc}" if isinstance(exc, OSError) else f"{self.path}: {exc}"
            )
            if said != self.error:
                log.error("deaths are not on the disk; kept in memory", error=said)
            self.error = said
            return
        if self.error:
            log.info("deaths are on the disk again", path=str(self.path))
        self.error, self._written = "", entries


async def _in_thread(work: Callable[[], None]) -> None:
    """Not one of the loop's own threads: those are waited for at the end, and a disk may hang for ever.

    Raises what ``work`` raises, and RuntimeError when there is no thread to be had.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error = None
        try:
            work()
        except Exception as exc:  # noqa: BLE001  handed to whoever awaits
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="deaths", daemon=True).start()
    await done


def _write(path: Path, entries: tuple[Entry, ...]) -> None:
    write(path, dump(entries))


def boot_id() -> str:
    """The kernel's name for this boot; "" where it has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
