"""The end of a rotated log file, and what is added to it. Blocks on the disk: for threads."""

import os
import threading
from pathlib import Path
from typing import BinaryIO

from supervisor.observe.logfolder import FILE_COPIES
from supervisor.types import KIB, MIB

BLOCK_BYTES = 64 * KIB
MOST_BYTES = 4 * MIB  # of one answer, however many lines are asked for


def last_lines(path: Path, count: int, *, most_bytes: int = MOST_BYTES) -> list[str]:
    """The newest lines, oldest first, from as many of the rotated files as it takes."""
    found: list[str] = []
    for number in range(FILE_COPIES + 1):
        if len(found) >= count or most_bytes <= 0:
            break
        part = path if number == 0 else path.with_name(f"{path.name}.{number}")
        data = _end_of(part, count - len(found), most_bytes)
        most_bytes -= len(data)
        found = _lines(data)[-(count - len(found)) :] + found
    return found


def _end_of(path: Path, count: int, most_bytes: int) -> bytes:
    """At least so many last lines where there are; empty when there is no such file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return b""
    with file:
        start = size = os.fstat(file.fileno()).st_size
        pieces: list[bytes] = []
        newlines = 0
        while start > 0 and newlines <= count and size - start < most_bytes:
            begin = max(0, start - BLOCK_BYTES)
            file.seek(begin)
            pieces.append(file.read(start - begin))
            newlines += pieces[-1].count(b"\n")
            start = begin
    data = b"".join(reversed(pieces))
    if start > 0:  # the first line is not whole
        data = data.partition(b"\n")[2]
    return data


def _lines(data: bytes) -> list[str]:
    """Split at line feeds only: a child's output may hold other characters that Python takes for line ends."""
    if not data:
        return []
    return [line.decode(errors="replace") for line in data.removesuffix(b"\n").split(b"\n")]


class Follower:
    """Reads what is added after its making, across rotations and removals. Use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._abandoned = False
        self._file: BinaryIO | None = self._opened()
        self._rest = b""
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """The whole lines that have come since; a bounded part of them, if they are many."""
        with self._reading:
            data = self._read()
            if self._abandoned:
                self._close()
        if not data:
            return []
        data = self._rest + data
        whole, mark, self._rest = data.rpartition(b"\n")
        if not mark and len(data) > BLOCK_BYTES:  # a line without end is passed on in pieces
            whole, self._rest = data, b""
        return _lines(whole + mark)

    def _read(self) -> bytes:
        if self._file is None:
            self._file = self._opened()
        if self._file is None:
            return b""
        data = self._file.read(BLOCK_BYTES)
        if not data and self._replaced():
            data = self._file.read(BLOCK_BYTES)  # written between the last look and the rotation
            if not data:
                self._close()
                self._file = self._opened()
                data = self._file.read(BLOCK_BYTES) if self._file is not None else b""
        return data

    def _replaced(self) -> bool:
        assert self._file is not None  # noqa: S101  its caller has looked
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False  # between two names; look again

    def _opened(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Never waits: a read that is under way closes the file when it comes back."""
        self._abandoned = True
        if self._reading.acquire(blocking=False):
            self._close()
            self._reading.release()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
