"""Server-sent events of the control API: bounded in number, kept alive, ended when nobody reads them.

No stream has a queue of its own: each knows how far it has come in a ring or a file, so that one that lags costs
nothing and is told what it has missed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from supervisor.clock import Clock
from supervisor.control.eventlog import Event, EventLog
from supervisor.control.readers import Readers
from supervisor.control.tail import Follower
from supervisor.errors import QueueFull
from supervisor.proc.run import within

log: structlog.stdlib.BoundLogger = structlog.get_logger("control")

MOST_STREAMS = 64
HEARTBEAT_S = 15.0
SNAPSHOT_S = 2.0
LOG_LOOK_S = 0.3
SLOW_READER_S = 30.0  # as on the port
TRANSPORT = "llmsup.transport"  # where the server puts a connection in its scope
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


# Beside those of `eventlog`: kinds that are not kept, and have no id.
PASSING: Mapping[str, str] = {
    "snapshot": "status, requests and clients now, while `snapshots=1`",
    "gap": "so many events are forgotten already",
    "lines": "lines of a log, as a list of texts",
}


def block(kind: str, data: object, event_id: str = "") -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


class Streams:
    """Those that are open, and what they are made of. ``snapshot``: what a watcher is shown now and then."""

    def __init__(
        self,
        events: EventLog,
        snapshot: Callable[[], Mapping[str, Any]],
        clock: Clock,
        *,
        slow_reader_s: float = SLOW_READER_S,
    ) -> None:
        self.events = events
        self.slow_reader_s = slow_reader_s
        self._snapshot = snapshot
        self._clock = clock
        self._news = asyncio.Event()
        self._closed = False
        self.readers = Readers()
        self._shown: tuple[float, bytes] = (-SNAPSHOT_S, b"")
        self.open = 0
        events.subscribe(self._wake)

    def __repr__(self) -> str:
        return f"<Streams {self.open} open>"

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def begin(self) -> None:
        self._closed = False

    def close(self) -> None:
        """Every stream ends, properly."""
        self._closed = True
        self._wake()

    def check_room(self) -> None:
        """Raises QueueFull."""
        if self.open >= MOST_STREAMS:
            raise QueueFull(f"{MOST_STREAMS} streams are open already", hint="close one of them")

    async def _pause(self, seconds: float) -> None:
        """Until an event has happened, but not for longer."""
        await within(self._news, seconds, self._clock)

    # ---- what they consist of

    async def of_events(self, number: int, *, snapshots: bool) -> AsyncIterator[bytes]:
        """What has happened after that event, and what happens."""
        spoken_at = shown_at = self._clock.now() - HEARTBEAT_S
        while True:
            fresh, missed = self.events.after(number)
            number = self.events.newest
            said = _told(fresh, missed)
            now = self._clock.now()
            if snapshots and now - shown_at >= SNAPSHOT_S:
                shown_at = now
                said += self._look(now)
            if not said and now - spoken_at >= HEARTBEAT_S:
                said = b": still here\n\n"
            if said:
                spoken_at = now
                yield said
            if self._closed:
                return
            if self.events.newest == number:
                await self._pause(max(0.01, shown_at + SNAPSHOT_S - now) if snapshots else HEARTBEAT_S)

    def _look(self, now: float) -> bytes:
        """One look serves everybody who asks at about the same time."""
        made_at, shown = self._shown
        if now - made_at >= SNAPSHOT_S / 2:
            shown = block("snapshot", self._snapshot())
            self._shown = (now, shown)
        return shown

    async def _added(self, follower: Follower) -> list[str]:
        """None when it is not to be had now: it will be, with the next look."""
        try:
            return await self.readers.run(follower.read)
        except QueueFull:
            return []

    async def of_log(self, path: Path, lines: list[str], follower: Follower) -> AsyncIterator[bytes]:
        """These lines, and what is added to the file."""
        spoken_at = self._clock.now()
        yield block("lines", lines)
        try:
            while not self._closed:
                fresh = await self._added(follower)
                now = self._clock.now()
                if fresh or now - spoken_at >= HEARTBEAT_S:
                    spoken_at = now
                    yield block("lines", fresh) if fresh else b": still here\n\n"
                if not fresh and not self._closed:
                    await self._clock.sleep(LOG_LOOK_S)
        finally:
            follower.close()


def _told(fresh: list[Event], missed: int) -> bytes:
    said = block("gap", {"missed": missed}) if missed else b""
    return said + b"".join(block(event.kind, event.as_dict(), event.id) for event in fresh)


class EventStream(Response):
    """An endless answer, which ends with its source, with its reader, or when that does not read."""

    def __init__(self, streams: Streams, source: AsyncIterator[bytes]) -> None:
        super().__init__(status_code=200, media_type="text/event-stream")
        self._streams = streams
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.open += 1
        sending = asyncio.create_task(self._send(send), name="control.stream")
        leaving = asyncio.create_task(_left(receive), name="control.stream.reader")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.open -= 1
            for task in (sending, leaving):
                task.cancel()
            outcomes = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(outcomes[0], TimeoutError):
            log.warning("a reader of events does not read; its connection is closed")
            transport: Any = scope.get(TRANSPORT)
            if transport is not None:
                transport.abort()
                await asyncio.sleep(0)  # that the server hears of it before we return
        elif isinstance(outcomes[0], Exception):
            raise outcomes[0]

    async def _send(self, send: Send) -> None:
        """Raises TimeoutError: nobody reads."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async for piece in self._source:
                async with asyncio.timeout(self._streams.slow_reader_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
