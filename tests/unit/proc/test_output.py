import asyncio
import os
import subprocess
import threading
import time

import pytest

from supervisor.observe import logfile
from supervisor.proc.output import LINE_MAX_BYTES, READ_BYTES, RING_LINES, LogFile, Output, signal_from_thread
from tests.support.proc import descriptors, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path):
    file = LogFile(tmp_path / "log" / "demo.log")
    yield file
    file.close()


async def written(*blocks, file=None, secrets=()):
    """All of a child's output as the ring has it at the end."""
    ended = threading.Event()
    output = Output(file, ended.set, secrets=secrets)
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


@pytest.mark.fault(31)
async def test_binary_bytes_are_replaced_not_feared():
    output = await written(bytes(range(256)), b"\xff\xfe\n")
    assert "�" in output.tail()[-1]


@pytest.mark.fault(31)
async def test_a_line_of_100_mb_is_read_at_once_and_kept_in_pieces():
    ended = threading.Event()
    output = Output(None, ended.set)
    with subprocess.Popen(["head", "-c", "100000000", "/dev/zero"], stdout=output.write_fd):
        output.start()
        await eventually(ended.is_set, within_s=10)
    assert output.bytes_read == 100_000_000
    assert max(map(len, output.tail(10**6))) <= LINE_MAX_BYTES
    assert len(output.tail(10**6)) <= RING_LINES


@pytest.mark.fault(31)
async def test_a_stuck_disk_blocks_nobody_and_the_loss_is_counted(log, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(logfile, "QUEUE_BYTES", 4 * READ_BYTES)
    monkeypatch.setattr(LogFile, "_write", lambda *_: stuck.wait(10))
    began = time.monotonic()
    output = await written(b"x" * (READ_BYTES - 1) + b"\n", *[b"y\n" * (READ_BYTES // 2)] * 100, file=log)
    assert output.bytes_read == 101 * READ_BYTES
    assert log.dropped_lines > 0
    log.close(timeout_s=0.01)  # gives up waiting
    assert time.monotonic() - began < 2
    stuck.set()
    await eventually(lambda: not log._thread.is_alive())


async def test_the_file_gets_every_byte(log):
    await written(b"one\n", b"\xff\0", file=log)
    log.close()
    assert log.path.read_bytes() == b"one\n\xff\0"
    assert (log.dropped_lines, log.error) == (0, None)


# ---- secrets


@pytest.mark.parametrize("at", [0, 3, 20, LINE_MAX_BYTES - 5, READ_BYTES - 5, 3 * READ_BYTES])
async def test_a_secret_shows_nowhere_wherever_it_comes(log, at):
    key = b"k" * 20 + b"0123456789"
    whole = b"x" * at + key + b" and then\n"
    output = await written(whole[: at + 7], whole[at + 7 :], file=log, secrets=(key,))
    log.close()
    for shown in ("".join(output.tail(10**6)), log.path.read_text()):
        assert "kkk" not in shown
        assert "0123" not in shown
    assert log.path.read_text() == "x" * at + "*** and then\n"


async def test_what_looks_like_a_secret_is_masked():
    output = await written(b"argv: llama-server --api-key abcdef --port 1\nHF_TOKEN=hf_xyz\n")
    assert output.tail() == ["argv: llama-server --api-key *** --port 1", "HF_TOKEN=***"]


# ---- descriptors and threads


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


# ---- the way back to the loop


async def test_a_thread_sets_an_event_of_the_loop():
    event = asyncio.Event()
    threading.Thread(target=signal_from_thread(asyncio.get_running_loop(), event)).start()
    await asyncio.wait_for(event.wait(), 2)


async def test_a_closed_loop_is_left_alone():
    loop = asyncio.new_event_loop()
    loop.close()
    signal_from_thread(loop, asyncio.Event())()
