import asyncio
import errno
import os
import subprocess
import threading
import time

import pytest

from supervisor.proc import output as module
from supervisor.proc.output import LINE_MAX_BYTES, READ_BYTES, RING_LINES, LogFile, Output, signal_from_thread
from tests.support.proc import descriptors, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path):
    file = LogFile(tmp_path / "log" / "demo.log")
    yield file
    file.close()


async def written(*blocks, file=None):
    """All of a child's output as the ring has it at the end."""
    ended = threading.Event()
    output = Output(file, ended.set)
    end = os.dup(output.write_fd)
    output.start()
    await asyncio.to_thread(_write, end, blocks)
    await eventually(ended.is_set)
    return output


def _write(fd, blocks):
    for block in blocks:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(fd, rest) :]
    os.close(fd)


# ---- the ring


async def test_lines_are_kept_whole_however_they_arrive():
    output = await written(b"one\ntw", b"o\r\n", b"\nthree")
    assert output.tail() == ["one", "two", "", "three"]
    assert output.tail(1) == ["three"]
    assert output.bytes_read == 15


async def test_the_ring_forgets_the_oldest():
    output = await written(b"".join(b"%d\n" % n for n in range(3 * RING_LINES)))
    assert output.tail(10**6) == [str(n) for n in range(2 * RING_LINES, 3 * RING_LINES)]


async def test_binary_bytes_are_replaced_not_feared():
    output = await written(bytes(range(256)), b"\xff\xfe\n")
    assert "�" in output.tail()[-1]


async def test_a_line_of_100_mb_is_read_at_once_and_kept_in_pieces():
    ended = threading.Event()
    output = Output(None, ended.set)
    with subprocess.Popen(["head", "-c", "100000000", "/dev/zero"], stdout=output.write_fd):
        output.start()
        await eventually(ended.is_set, within_s=10)
    assert output.bytes_read == 100_000_000
    assert max(map(len, output.tail(10**6))) <= LINE_MAX_BYTES
    assert len(output.tail(10**6)) <= RING_LINES


async def test_a_stuck_disk_blocks_nobody_and_the_loss_is_counted(log, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(module, "QUEUE_BLOCKS", 4)
    monkeypatch.setattr(LogFile, "_write", lambda *_: stuck.wait(10))
    file = LogFile(log.path)
    began = time.monotonic()
    output = await written(b"x" * (READ_BYTES - 1) + b"\n", *[b"y\n" * (READ_BYTES // 2)] * 100, file=file)
    assert output.bytes_read == 101 * READ_BYTES
    assert file.dropped_blocks > 0
    file.close(timeout_s=0.01)  # gives up waiting
    assert time.monotonic() - began < 2
    stuck.set()
    await eventually(lambda: not file._thread.is_alive())


async def test_an_abandoned_pipe_leaves_no_descriptor():
    before = descriptors()
    Output(None).abandon()
    assert descriptors() == before


async def test_no_thread_to_be_had_closes_the_pipe_and_says_so(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    before = descriptors()
    output = Output(None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        output.start()
    assert descriptors() == before


# ---- the file


async def test_the_file_gets_every_byte(log):
    await written(b"one\n", b"\xff\0", file=log)
    log.close()
    assert log.path.read_bytes() == b"one\n\xff\0"
    assert (log.dropped_blocks, log.error) == (0, None)


async def test_rotation_keeps_so_many_copies(log, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 10)
    monkeypatch.setattr(module, "FILE_COPIES", 2)
    for n in range(5):
        log.put(b"%d 45678901" % n)
    log.close()
    names = sorted(path.name for path in log.path.parent.iterdir())
    assert names == ["demo.log", "demo.log.1", "demo.log.2"]
    assert [(log.path.parent / name).read_bytes()[:1] for name in names] == [b"4", b"3", b"2"]


async def test_a_removed_folder_is_made_again(log):
    log.put(b"one")
    await eventually(log.path.exists)
    log.path.unlink()
    log.path.parent.rmdir()
    log.put(b"two")
    log.close()
    assert log.path.read_bytes() == b"two"


@pytest.mark.parametrize("wrong", ["folder is a file", "link", "pipe without a reader"])
async def test_a_place_that_cannot_be_written_is_counted_and_recovered_from(log, tmp_path, wrong):
    if wrong == "folder is a file":
        obstacle = log.path.parent
        obstacle.touch()
    else:
        log.path.parent.mkdir()
        obstacle = log.path
        obstacle.symlink_to(tmp_path / "victim") if wrong == "link" else os.mkfifo(obstacle)
    log.put(b"lost")
    await eventually(lambda: log.dropped_blocks == 1)
    assert str(log.path) in log.error
    obstacle.unlink()
    log.put(b"kept")
    log.close()
    assert log.path.read_bytes() == b"kept"
    assert log.error is None
    assert not (tmp_path / "victim").exists()


async def test_a_full_disk_is_counted_and_a_part_written_is_completed(log, monkeypatch):
    real, full = os.write, threading.Event()

    def write(fd, data):
        if fd != log._fd:
            return real(fd, data)
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:2])

    monkeypatch.setattr(os, "write", write)
    log.put(b"whole")
    await eventually(lambda: log.path.exists() and log.path.read_bytes() == b"whole")
    full.set()
    log.put(b"lost")
    await eventually(lambda: log.dropped_blocks == 1)
    assert "No space left" in log.error
    full.clear()
    log.put(b"again")
    await eventually(lambda: log.path.read_bytes() == b"wholeagain")
    assert log.error is None


async def test_an_error_while_reopening_closes_nothing_twice(log, monkeypatch):
    """A number closed twice may be a client's connection by then."""
    closed = []
    real = os.close
    log.put(b"one")
    await eventually(log.path.exists)
    log.path.unlink()
    log.path.parent.rmdir()
    log.path.parent.touch()
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), real(fd)))
    log.put(b"two")
    await eventually(lambda: log.dropped_blocks == 1)
    assert len(closed) == 1


# ---- the way back to the loop


async def test_a_thread_sets_an_event_of_the_loop():
    event = asyncio.Event()
    threading.Thread(target=signal_from_thread(asyncio.get_running_loop(), event)).start()
    await asyncio.wait_for(event.wait(), 2)


async def test_a_closed_loop_is_left_alone():
    loop = asyncio.new_event_loop()
    loop.close()
    signal_from_thread(loop, asyncio.Event())()
