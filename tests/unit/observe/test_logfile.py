"""A file that loses lines, never time; that says what it lost; that no full disk and no planted name can harm."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.observe import logfile, logfolder
from supervisor.observe.logfile import LogFile
from supervisor.observe.pace import Pace


class Hand:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "RETRY_S", 0.01)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    file = LogFile(tmp_path / "log" / "llama-server.demo.log")
    yield file
    file.close()


def eventually(holds: Callable[[], object], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)


def put(file: LogFile, *blocks: bytes) -> None:
    """One after the other, each written before the next."""
    for block in blocks:
        file.put(block)
        eventually(lambda: not file._waiting_bytes)


# ---- rotation, and a folder that is somebody else's too


def test_rotation_keeps_so_many_copies(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfolder, "FILE_BYTES", 10)
    monkeypatch.setattr(logfolder, "FILE_COPIES", 2)
    for n in range(5):
        log.put(b"%d 4567890\n" % n)
    log.close()
    names = sorted(path.name for path in log.path.parent.iterdir())
    assert names == [log.path.name, f"{log.path.name}.1", f"{log.path.name}.2"]
    assert [(log.path.parent / name).read_bytes()[:1] for name in names] == [b"4", b"3", b"2"]


def test_a_file_that_is_full_already_is_rotated_before_anything_is_added(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfolder, "FILE_BYTES", 4)
    log.path.parent.mkdir()
    log.path.write_bytes(b"full")
    put(log, b"new\n")
    assert log.path.read_bytes() == b"new\n"
    assert log.path.with_name(f"{log.path.name}.1").read_bytes() == b"full"


def test_a_file_that_cannot_be_rotated_does_not_grow(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(logfolder, "FILE_BYTES", 4)
    monkeypatch.setattr(os, "replace", refuse)
    put(log, *[b"line\n"] * 5)
    assert log.path.read_bytes() == b"line\n"
    assert log.dropped_lines == 4
    assert "Permission denied" in (log.error or "")


def test_opening_makes_room(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfolder, "FOLDER_BYTES", 1)
    log.path.parent.mkdir()
    old = log.path.with_name("llama-server.gone.log.3")
    old.write_bytes(b"x")
    put(log, b"one\n")
    assert not old.exists()


# ---- a disk with too little left


class Disk:
    def __init__(self, total: int, free: int) -> None:
        self.f_frsize, self.f_blocks, self.f_bavail = 1, total, free


def test_below_the_floor_nothing_is_written_and_above_it_again_by_itself(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(1000, 1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    put(log, b"lost\nlost\n", b"lost\n")
    assert not log.path.exists()
    assert log.dropped_lines == 3
    assert "free on the disk" in (log.error or "")
    disk.f_bavail = 900
    eventually(lambda: log.error is None)  # nobody has written anything
    eventually(lambda: log.path.read_bytes() == b"[llmsup] dropped 3 lines\n")
    put(log, b"kept\n")
    assert log.path.read_bytes() == b"[llmsup] dropped 3 lines\nkept\n"


@pytest.mark.fault(30)
def test_a_full_disk_is_counted_and_a_part_written_is_completed(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.write, False

    def write(fd: int, data: Any) -> int:
        if fd == log._fd and full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:2] if fd == log._fd else data)

    monkeypatch.setattr(os, "write", write)
    put(log, b"whole")
    assert log.path.read_bytes() == b"whole"
    full = True
    put(log, b"lost\n")
    assert "No space left" in (log.error or "")
    full = False
    put(log, b"again\n")
    eventually(lambda: log.path.read_bytes().endswith(b"again\n"))
    assert log.path.read_bytes() == b"whole\n[llmsup] dropped 1 lines\nagain\n"
    assert (log.error, log.dropped_lines) == (None, 1)


# ---- places that are gone, or not what they seem


@pytest.mark.fault(30)
def test_a_removed_folder_is_made_again(log: LogFile) -> None:
    put(log, b"one")
    log.path.unlink()
    log.path.parent.rmdir()
    put(log, b"two")
    assert log.path.read_bytes() == b"two"


@pytest.mark.parametrize("wrong", ["folder is a file", "link", "pipe", "folder", "pipe with a reader"])
def test_a_place_that_cannot_be_written_is_counted_and_recovered_from(
    log: LogFile, tmp_path: Path, wrong: str
) -> None:
    obstacle = log.path.parent if wrong == "folder is a file" else log.path
    reader = None
    if wrong == "folder is a file":
        obstacle.touch()
    else:
        log.path.parent.mkdir()
        if wrong == "link":
            obstacle.symlink_to(tmp_path / "victim")
        elif wrong == "folder":
            obstacle.mkdir()
        else:
            os.mkfifo(obstacle)
            reader = os.open(obstacle, os.O_RDONLY | os.O_NONBLOCK) if "reader" in wrong else None
    put(log, b"lost\n")
    assert log.dropped_lines == 1
    assert str(log.path) in (log.error or "")
    obstacle.rmdir() if wrong == "folder" else obstacle.unlink()
    put(log, b"kept\n")
    eventually(lambda: log.error is None)
    assert log.path.read_bytes() == b"[llmsup] dropped 1 lines\nkept\n"
    assert not (tmp_path / "victim").exists()
    if reader is not None:
        os.close(reader)


def test_an_error_while_reopening_closes_nothing_twice(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number closed twice may be a client's connection by then."""
    closed = []
    real = os.close
    put(log, b"one")
    log.path.unlink()
    log.path.parent.rmdir()
    log.path.parent.touch()
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), real(fd)))
    put(log, b"two")
    eventually(lambda: log.dropped_lines == 1)
    assert len(closed) == 1


# ---- too much


def test_what_is_too_much_is_dropped_and_said_where_it_is_missing(tmp_path: Path) -> None:
    hand = Hand()
    log = LogFile(tmp_path / "demo.log", pace=Pace(rate_bytes_s=10, burst_bytes=10), now=hand)
    put(log, b"12345678\n")
    log.put(b"two\nlines\n")
    hand.at = 1.0
    put(log, b"87654321\n")
    log.close()
    assert log.path.read_bytes() == b"12345678\n[llmsup] dropped 2 lines\n87654321\n"
    assert log.view().dropped_lines == 2
    assert log.view().error is None


def test_a_gap_at_the_end_is_said_too(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "demo.log", pace=Pace(rate_bytes_s=10, burst_bytes=10), now=Hand())
    put(log, b"12345678\n")
    for _ in range(1000):
        log.put(b"too much\n")
    log.close()
    text = log.path.read_text()
    assert text.startswith("12345678\n")
    assert sum(int(line.split()[2]) for line in text.splitlines()[1:]) == log.dropped_lines == 1000


def test_a_stuck_disk_holds_up_nobody_and_no_more_than_so_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "QUEUE_BYTES", 100)
    monkeypatch.setattr(LogFile, "_run", lambda *_: None)
    log = LogFile(tmp_path / "demo.log")
    for _ in range(50):
        log.put(b"123456789\n")
    assert log._waiting_bytes == 100
    assert log.dropped_lines == 40
