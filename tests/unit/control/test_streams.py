"""Server-sent events: what they say, and when they end."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from supervisor.control.streams import HEARTBEAT_S, LOG_LOOK_S, MOST_STREAMS, SNAPSHOT_S, TRANSPORT
from tests.support.overseer import AT, Asking, Message, Surface


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(bounded())


def test_events_come_as_they_happen_and_a_reader_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        surface.events.add("state", AT, {"state": "LOADING"})
        asking = Asking(surface.app, "GET", "/events?follow=1")
        serving = asyncio.create_task(asking.serve())
        first = await asking.body()
        assert first.startswith(b"id: life-1\nevent: state\ndata: {")
        assert first.endswith(b"}\n\n")
        assert surface.streams.open == 1
        surface.events.add("death", AT, {"cause": "killed\nid: forged"})
        second = await asking.body()
        assert second.startswith(b"id: life-2\nevent: death\n")
        assert second.count(b"\n") == 4  # what a child says cannot add fields
        asking.leave()
        await serving
        assert surface.streams.open == 0

    run(work())


def test_a_reader_goes_on_where_it_was_and_is_told_what_it_missed(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path)
        for _ in range(1005):
            surface.events.add("state", AT, {})
        asking = Asking(surface.app, "GET", "/events?follow=1", {"Last-Event-ID": "life-1003"})
        await asking.serve()
        assert (await asking.body()).count(b"event: ") == 2
        late = Asking(surface.app, "GET", "/events?follow=1", {"Last-Event-ID": "life-2"})
        await late.serve()
        assert (await late.body()).startswith(b'event: gap\ndata: {"missed": 3}\n\nid: life-6\n')

    run(work())


def test_while_nothing_happens_a_comment_keeps_it_alive(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        asking = Asking(surface.app, "GET", "/events?follow=1&n=0")
        serving = asyncio.create_task(asking.serve())
        assert await asking.body() == b": still here\n\n"
        await surface.clock.advance(HEARTBEAT_S - 1)
        assert asking.messages.empty()
        await surface.clock.advance(1.1)
        assert await asking.body() == b": still here\n\n"
        surface.streams.close()
        await serving
        last = await asking.messages.get()
        assert last == {"type": "http.response.body", "body": b"", "more_body": False}

    run(work())


def test_snapshots_come_to_those_who_ask_and_are_made_once_for_all(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        made = 0

        def snapshot() -> dict[str, object]:
            nonlocal made
            made += 1
            return {"made": made}

        surface.streams._snapshot = snapshot
        askings = [Asking(surface.app, "GET", "/events?follow=1&n=0&snapshots=1") for _ in range(3)]
        serving = [asyncio.create_task(asking.serve()) for asking in askings]
        for asking in askings:
            assert await asking.body() == b'event: snapshot\ndata: {"made": 1}\n\n'
        await surface.clock.advance(SNAPSHOT_S + 0.1)
        for asking in askings:
            assert await asking.body() == b'event: snapshot\ndata: {"made": 2}\n\n'
        surface.streams.close()
        await asyncio.gather(*serving)

    run(work())


def test_without_lookers_no_snapshot_is_made(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        surface.daemon.defect = True  # one would fail
        asking = Asking(surface.app, "GET", "/events?follow=1&n=0")
        serving = asyncio.create_task(asking.serve())
        await asking.body()
        await surface.clock.advance(10 * SNAPSHOT_S)
        surface.streams.close()
        await serving

    run(work())


def test_there_is_a_limit_to_their_number(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        surface.streams.open = MOST_STREAMS
        asking = Asking(surface.app, "GET", "/events?follow=1")
        await asking.serve()
        assert (await asking.messages.get())["status"] == 503
        assert b"queue_full" in await asking.body()

    run(work())


class Line:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_who_does_not_read_loses_the_connection(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        surface.streams.slow_reader_s = 0.01
        asking = Asking(surface.app, "GET", "/events?follow=1")
        line = Line()
        asking._scope[TRANSPORT] = line

        async def stuck(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        await asking.serve(stuck)
        assert line.aborted
        assert surface.streams.open == 0

    run(work())


def test_a_defect_in_a_stream_is_not_hidden(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        surface.daemon.defect = True
        with pytest.raises(RuntimeError, match="a defect"):
            await Asking(surface.app, "GET", "/events?follow=1&snapshots=1").serve()
        assert surface.streams.open == 0

    run(work())


def test_a_log_is_followed(tmp_path: Path) -> None:
    async def work() -> None:
        surface = Surface(tmp_path, live=True)
        log = tmp_path / "demo.log"
        log.write_text("one\ntwo\n")
        asking = Asking(surface.app, "GET", "/logs?n=1&follow=1")
        serving = asyncio.create_task(asking.serve())
        assert await asking.body() == b'event: lines\ndata: ["two"]\n\n'
        with log.open("a") as file:
            file.write("three\n")
        body = asyncio.create_task(asking.body())
        while not body.done():  # the file is read in a thread
            await surface.clock.advance(LOG_LOOK_S)
        assert b'["three"]' in body.result()
        asking.leave()
        await serving

    run(work())
