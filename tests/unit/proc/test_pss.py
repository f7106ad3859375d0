"""Asked rarely, and never by the event loop."""

import mmap
import os
import threading
import time

import pytest

from supervisor.proc import pss
from supervisor.proc.pss import EVERY_S, PssMemory, read
from supervisor.types import MIB


class Children:
    def __init__(self) -> None:
        self.now, self.pids, self.asked = 0.0, [7, 8], []
        self.watch = PssMemory(lambda: self.pids, measure=self.measure, now=lambda: self.now)

    def measure(self, pid):
        self.asked.append(pid)
        return pid * MIB

    def look(self, seconds):
        self.now += seconds
        self.asked.clear()
        self.watch.look()
        return list(self.asked)


def test_each_child_is_asked_once_a_minute_and_a_new_one_at_once():
    it = Children()
    assert it.look(5) == [7, 8]
    assert it.look(EVERY_S - 1) == []
    it.pids = [7, 9]
    assert it.look(0.5) == [9]
    assert it.look(0.5) == [7]
    assert (it.watch.of(7), it.watch.of(9)) == (7 * MIB, 9 * MIB)


def test_of_one_that_is_gone_nothing_is_known():
    it = Children()
    it.look(1)
    it.pids = []
    it.look(1)
    assert it.watch.of(7) is None


def test_it_is_read_in_a_thread_of_its_own_and_survives_an_error(monkeypatch):
    monkeypatch.setattr(pss, "LOOK_S", 0.001)
    threads, done = [], threading.Event()

    def measure(pid):
        threads.append(threading.current_thread())
        if len(threads) == 1:
            raise ValueError("once")
        done.set()
        return 5

    it = PssMemory(lambda: [1], measure=measure)
    it.start()
    try:
        assert done.wait(5)
        deadline = time.monotonic() + 5
        while it.of(1) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert it.of(1) == 5
        assert threads[0].name == "pss"
        assert threads[0].daemon
    finally:
        it.stop()
    threads[0].join(5)
    assert not threads[0].is_alive()


def test_pages_that_two_share_are_counted_in_halves(tmp_path):
    """What it is for: RSS counts them twice."""
    path, size = tmp_path / "weights", 32 * MIB
    path.write_bytes(b"\1" * size)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as weights:
        assert sum(weights[at] for at in range(0, size, mmap.PAGESIZE)) > 0
        alone = read(os.getpid())
        told, tell = os.pipe()
        other = os.fork()
        if other == 0:
            sum(weights[at] for at in range(0, size, mmap.PAGESIZE))
            os.write(tell, b"x")
            time.sleep(60)
            os._exit(0)
        try:
            os.read(told, 1)
            shared = read(os.getpid())
        finally:
            os.kill(other, 9)
            os.waitpid(other, 0)
            os.close(told)
            os.close(tell)
    assert alone is not None
    assert shared is not None
    assert alone - shared > size // 2 - 4 * MIB


@pytest.mark.parametrize("content", ["", "Rss: 5 kB\n", "Pss:\n", "Pss: x kB\n"])
def test_what_makes_no_sense_is_not_known(tmp_path, content):
    folder = tmp_path / str(os.getpid())
    folder.mkdir()
    (folder / "smaps_rollup").write_text(content)
    assert read(os.getpid(), proc=tmp_path) is None


def test_what_is_too_large_or_gone_is_not_asked(tmp_path):
    assert read(os.getpid(), largest_bytes=1) is None
    assert read(os.getpid(), proc=tmp_path) is None
    assert read(2**22 + 1) is None
