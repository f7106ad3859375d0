"""Reads that may never come back hold up nobody, and are few."""

import asyncio
import threading
from pathlib import Path

import pytest

from supervisor.control.readers import Readers
from supervisor.errors import QueueFull


def test_what_is_read_and_what_is_raised() -> None:
    async def work() -> None:
        readers = Readers()
        assert await readers.run(lambda: ["line"]) == ["line"]
        with pytest.raises(FileNotFoundError):
            await readers.run(Path("/nonexistent").read_text)
        assert readers.busy == 0

    asyncio.run(work())


def test_those_that_hang_are_counted_until_they_come_back() -> None:
    async def work() -> None:
        readers = Readers(most=2)
        disk = threading.Event()
        hanging = [asyncio.create_task(readers.run(disk.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        hanging[0].cancel()  # its reader has left
        await asyncio.gather(hanging[0], return_exceptions=True)
        with pytest.raises(QueueFull, match="2 reads"):
            await readers.run(lambda: 1)
        disk.set()
        assert await hanging[1]
        while readers.busy:
            await asyncio.sleep(0)
        assert await readers.run(lambda: 1) == 1

    asyncio.run(work())


def test_the_loop_does_not_wait_for_them() -> None:
    disk = threading.Event()

    async def work() -> None:
        task = asyncio.create_task(Readers().run(disk.wait))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(work())  # with the loop's own threads it would stay here
    disk.set()


def test_without_a_thread_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)

    async def work() -> None:
        readers = Readers()
        with pytest.raises(QueueFull, match="no thread"):
            await readers.run(lambda: 1)
        assert readers.busy == 0

    asyncio.run(work())
