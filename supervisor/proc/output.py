"""What a child writes: read at once, kept in a ring for diagnosis, copied to a rotated file.

The pipe must never fill: llama-server stops generating when it cannot log, while ``/health`` goes
on saying 200 (measured after 152 requests). So one thread per child does nothing but read, and the
disk, which may block, gets a second thread behind a bounded queue that drops and counts (`LogFile`).
Secrets the child was started with are masked before anybody sees them.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from supervisor.observe import redact
from supervisor.observe.logfile import LogFile
from supervisor.types import KIB, MIB

__all__ = ["LogFile", "Output", "signal_from_thread"]

F_SETPIPE_SZ: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)  # None on macOS: pipes keep their size

READ_BYTES = 64 * KIB
PIPE_BYTES = MIB  # the kernel's usual upper bound for unprivileged processes
RING_LINES = 2000
LINE_MAX_BYTES = 16 * KIB  # a longer line is cut into pieces: memory stays bounded


class Output:
    """One generation's pipe. ``tail()`` may be called from any thread."""

    def __init__(
        self,
        file: LogFile | None,
        on_eof: Callable[[], None] | None = None,
        *,
        secrets: Sequence[bytes] = (),
    ) -> None:
        self.bytes_read = 0
        self.write_fd: int
        self._read_fd, self.write_fd = os.pipe()
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._file = file
        self._on_eof = on_eof
        self._secrets = secrets
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
                # Whole lines only: a secret must not slip through in two halves.
                whole, end, rest = (rest + block).rpartition(b"\n")
                if end:
                    self._keep(whole + end)
                if len(rest) > LINE_MAX_BYTES:
                    rest = self._cut(rest)
        except OSError:
            pass  # the descriptor is ours alone; whatever this is, there is nothing more to read
        finally:
            if rest:
                self._keep(rest)
            os.close(self._read_fd)
            if self._on_eof is not None:
                self._on_eof()

    def _cut(self, line: bytes) -> bytes:
        """Keep a piece of an overlong line; returns the rest, long enough for half a secret."""
        line = redact.output(line, self._secrets)
        self._keep(line[: -redact.LONGEST_BYTES])
        return line[-redact.LONGEST_BYTES :]

    def _keep(self, data: bytes) -> None:
        data = redact.output(data, self._secrets)
        if self._file is not None:
            self._file.put(data)
        lines = data.removesuffix(b"\n").split(b"\n")
        for line in lines[-RING_LINES:]:
            self._ring.append(line[:LINE_MAX_BYTES].decode("utf-8", "replace").rstrip("\r"))


def signal_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    """A callback for other threads that sets ``event`` in its loop, and does nothing once that has closed."""

    def notify() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return notify
