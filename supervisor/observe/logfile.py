"""A size-rotated file fed by a thread of its own: whoever writes never waits for a disk.

The one mechanism behind every log file of llmsup, the children's and its own. What cannot be written (too
much of it, a full disk, a folder that is gone) is dropped, counted, said in the file as soon as that can be
written again, and the next block tries afresh.
"""

import contextlib
import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.observe import logfolder
from supervisor.observe.pace import Pace
from supervisor.types import MIB

QUEUE_BYTES = 16 * MIB  # what may wait for the disk
RETRY_S = 1.0  # until a gap is said, or a disk that was full is tried again, when nothing new comes
LOOK_S = 2.0  # how old a look at the disk's free space may be


@dataclass(frozen=True, slots=True)
class LogView:
    """How a log file fares; ``error``: why nothing is written at present."""

    path: str
    dropped_lines: int
    error: str | None


@dataclass(frozen=True, slots=True)
class _Block:
    lost_before: int  # lines that were dropped between the last one and this
    data: bytes


class LogFile:
    """``put`` may be called from any thread. ``now``: a steady clock, for the pace."""

    def __init__(
        self, path: Path, *, pace: Pace | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.dropped_lines = 0
        self.error: str | None = None
        self._pace = pace or Pace()
        self._now = now
        self._lock = threading.Lock()  # of the counts; never held over I/O
        self._waiting_bytes = 0
        self._unsaid = 0  # dropped lines the file does not tell of yet
        self._queue: queue.SimpleQueue[_Block | None] = queue.SimpleQueue()
        # From here on the disk thread's alone.
        self._fd: int | None = None
        self._mid_line = False
        self._looked_at = -LOOK_S
        self._thread = threading.Thread(target=self._run, name=f"log-{path.stem}", daemon=True)
        self._thread.start()

    def view(self) -> LogView:
        return LogView(str(self.path), self.dropped_lines, self.error)

    def put(self, data: bytes) -> None:
        """Whole lines, at best. Dropped when the file gets too much, or the disk does not keep up."""
        with self._lock:
            fits = self._waiting_bytes + len(data) <= QUEUE_BYTES
            if fits and self._pace.admits(len(data), self._now()):
                self._waiting_bytes += len(data)
                lost, self._unsaid = self._unsaid, 0
                self._queue.put(_Block(lost, data))
            else:
                if not self._unsaid:
                    self._queue.put(_Block(0, b""))  # wakes the thread, that it may say so
                self._count(data)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued and end the thread; gives up waiting after ``timeout_s``."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _count(self, data: bytes) -> None:
        lines = data.count(b"\n") or 1
        self.dropped_lines += lines
        self._unsaid += lines

    # ---- the disk thread

    def _run(self) -> None:
        while (block := self._next()) is not None:
            self._store(block)
        self._store(self._gap())
        self._close_file()

    def _next(self) -> _Block | None:
        """The next block; after a while without any, a gap that is not said yet."""
        while True:
            try:
                block = self._queue.get(timeout=RETRY_S if self._unsaid or self.error else None)
            except queue.Empty:
                return self._gap()
            if block is None or block.data:
                return block

    def _gap(self) -> _Block:
        with self._lock:
            lost, self._unsaid = self._unsaid, 0
        return _Block(lost, b"")

    def _store(self, block: _Block) -> None:
        notice = b"[llmsup] dropped %d lines\n" % block.lost_before if block.lost_before else b""
        try:
            if notice or block.data or self.error:
                self._write(notice, block.data)
            self.error = None
        except OSError as exc:
            # Folder gone or disk full: the ring goes on; the next block tries a fresh file.
            self.error = f"{self.path}: {exc.strerror or exc}"
            self._close_file()
            with self._lock:
                self._unsaid += block.lost_before
                if block.data:
                    self._count(block.data)
        with self._lock:
            self._waiting_bytes -= len(block.data)

    def _write(self, notice: bytes, data: bytes) -> None:
        self._look()
        fd = self._open()
        if notice and self._mid_line:
            notice = b"\n" + notice
        rest = memoryview(notice + data if notice else data)
        while rest:  # a disk that is nearly full takes a part, and the error comes with the next
            written = os.write(fd, rest)
            self._mid_line = rest[written - 1] != ord("\n")
            rest = rest[written:]

    def _look(self) -> None:
        """At the disk's free space, now and then; while there is too little, each time."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S or self.error is not None:
            logfolder.check_free(self.path.parent)
            self._looked_at = now

    def _open(self) -> int:
        """The descriptor to write to: reopened when the file was removed, renamed away when it is full."""
        fd = self._open_path() if self._fd is None else self._fd
        status = os.fstat(fd)
        if status.st_nlink and status.st_size < logfolder.FILE_BYTES:
            return fd
        self._close_file()
        if status.st_nlink:
            logfolder.shift(self.path)
            self._mid_line = False
        return self._open_path()

    def _open_path(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not through a link somebody planted: what is written here is the child's to choose. Not waiting
        # for a reader, should it be a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, 0o640)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        logfolder.make_room(self.path.parent)
        return self._fd

    def _close_file(self) -> None:
        """Forgets the number first: closed twice, it would be somebody else's."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)
