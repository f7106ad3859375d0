"""What a child writes: read at once, kept in a ring for diagnosis, copied to a rotated file.

The pipe must never fill: llama-server stops generating when it cannot log, while ``/health`` goes
on saying 200 (measured after 152 requests). So one thread per child does nothing but read, and the
disk, which may block, gets a second thread behind a bounded queue that drops and counts.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from supervisor.types import KIB, MIB

F_SETPIPE_SZ: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)  # None on macOS: pipes keep their size

READ_BYTES = 64 * KIB
PIPE_BYTES = MIB  # the kernel's usual upper bound for unprivileged processes
RING_LINES = 2000
LINE_MAX_BYTES = 16 * KIB  # a longer line is cut into pieces: memory stays bounded
FILE_BYTES = 10 * MIB
FILE_COPIES = 5
QUEUE_BLOCKS = 256  # of READ_BYTES at most: 16 MiB


class LogFile:
    """A size-rotated file fed by its own thread; a full queue or disk loses lines, never time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped_blocks = 0
        self.error: str | None = None
        self._closing = False
        self._fd: int | None = None  # the disk thread's alone
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_BLOCKS)
        self._thread = threading.Thread(target=self._run, name=f"log-{path.stem}", daemon=True)
        self._thread.start()

    def put(self, block: bytes) -> None:
        try:
            self._queue.put_nowait(block)
        except queue.Full:
            self.dropped_blocks += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued and end the thread; gives up waiting after ``timeout_s``."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # then the thread sees the mark, should the disk let it go on
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            try:
                self._write(block)
                self.error = None
            except OSError as exc:
                # Folder gone or disk full: the ring goes on; the next block tries a fresh file.
                self.dropped_blocks += 1
                self.error = f"{self.path}: {exc.strerror or exc}"
                self._close_file()
            if self._closing and self._queue.empty():
                break
        self._close_file()

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        fd = self._open()
        while rest:  # a disk that is nearly full takes a part, and the error comes with the next
            rest = rest[os.write(fd, rest) :]

    def _open(self) -> int:
        """The descriptor to write to: reopened when the file was removed, renamed away when it is full."""
        if self._fd is not None:
            status = os.fstat(self._fd)
            if status.st_nlink and status.st_size < FILE_BYTES:
                return self._fd
            self._close_file()
            if status.st_nlink:
                self._shift()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not through a link somebody planted: what is written here is the child's to choose. Not waiting
        # for a reader, should it be a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, 0o640)
        return self._fd

    def _close_file(self) -> None:
        """Forgets the number first: closed twice, it would be somebody else's."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _shift(self) -> None:
        """child.log.4 -> .5, ..., child.log -> .1"""
        names = [
            self.path,
            *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, FILE_COPIES + 1)),
        ]
        for older, newer in reversed(list(pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                os.replace(older, newer)


class Output:
    """One generation's pipe. ``tail()`` may be called from any thread."""

    def __init__(self, file: LogFile | None, on_eof: Callable[[], None] | None = None) -> None:
        self.bytes_read = 0
        self.write_fd: int
        self._read_fd, self.write_fd = os.pipe()
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._file = file
        self._on_eof = on_eof
        if F_SETPIPE_SZ is not None:
            with contextlib.suppress(OSError):  # the user's pipe quota is used up: 64 KiB it is
                fcntl.fcntl(self._read_fd, F_SETPIPE_SZ, PIPE_BYTES)

    def start(self) -> None:
        """Begin to read; to be called once the child has its end, which is then closed here."""
        os.close(self.write_fd)
        try:
            threading.Thread(target=self._drain, name=f"drain-{self._read_fd}", daemon=True).start()
        except RuntimeError:  # no thread to be had
            os.close(self._read_fd)
            raise

    def abandon(self) -> None:
        """Close both ends of a pipe whose child was never born."""
        os.close(self.write_fd)
        os.close(self._read_fd)

    def tail(self, lines: int = 60) -> list[str]:
        return list(self._ring)[-lines:]

    def _drain(self) -> None:
        rest = b""
        try:
            while block := os.read(self._read_fd, READ_BYTES):
                self.bytes_read += len(block)
                if self._file is not None:
                    self._file.put(block)
                *lines, rest = (rest + block).split(b"\n")
                self._keep(lines)
                if len(rest) > LINE_MAX_BYTES:
                    self._keep([rest])
                    rest = b""
        except OSError:
            pass  # the descriptor is ours alone; whatever this is, there is nothing more to read
        finally:
            if rest:
                self._keep([rest])
            os.close(self._read_fd)
            if self._on_eof is not None:
                self._on_eof()

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines[-RING_LINES:]:
            self._ring.append(line[:LINE_MAX_BYTES].decode("utf-8", "replace").rstrip("\r"))


def signal_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    """A callback for other threads that sets ``event`` in its loop, and does nothing once that has closed."""

    def notify() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return notify
