"""The configuration taken up when it is saved.

Every way of saving ends in the same question: is what the path leads to another file than before, and has it stood
still for a moment? So what woke us (an editor's rename, a write in place, Kubernetes swapping the link `..data`, a
link that now leads elsewhere) does not matter. A file that is not there, or empty, is given time to come back.

The folders of the path and of every link on the way are watched, by the kernel's notifications where there are any;
a look each `LOOK_S` finds what those do not reach (file servers, a folder that was replaced).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from watchfiles import awatch

from supervisor.clock import Clock
from supervisor.errors import ConfigError
from supervisor.proc.filewatch import Stamp, stamp

log: structlog.stdlib.BoundLogger = structlog.get_logger("reload")

QUIET_MS = 200  # without a further event, before the file is looked at
DEBOUNCE_MS = 1000  # in a folder that never rests
LOOK_S = 5.0
POLL_S = 1.0  # where the kernel has no more watches to give
POLLS = 60
ABSENT_S = (
    2.0  # an editor that deletes and writes anew takes milliseconds, a copy over the network may take longer
)
MAX_LINKS = 40  # as the kernel's own limit

# Seen: the real path and its stamp; None: it is not there, or empty, so far.
Seen = tuple[str, Stamp] | None


def look(path: Path) -> Seen:
    """What the path leads to now."""
    facts = stamp(path)
    if facts is None or facts[1] == 0:  # its size: an editor may truncate first and write then
        return None
    return os.path.realpath(path), facts


@dataclass(frozen=True, slots=True)
class Place:
    """A name to be watched; ``inode``: the folder's, as a folder made anew must be watched anew."""

    folder: str
    name: str
    inode: int | None


def trail(path: Path) -> frozenset[Place]:
    """Every link on the way to the file, and the file itself."""
    return frozenset(Place(folder, name, _inode(folder)) for folder, name in _steps(path))


def _inode(folder: str) -> int | None:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None


def _steps(path: Path) -> Iterator[tuple[str, str]]:
    pending = [part for part in os.path.abspath(path).split("/") if part]
    here, links = "/", 0
    while pending:
        name = pending.pop(0)
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        if os.path.islink(step) and links < MAX_LINKS:
            links += 1
            yield here, name
            target = os.readlink(step)
            here = "/" if target.startswith("/") else here
            pending[:0] = [part for part in target.split("/") if part not in {"", "."}]
        else:
            if not pending:
                yield here, name
            here = step


async def notified(places: Collection[Place]) -> AsyncGenerator[None]:
    """One item for each burst of changes of these names in these folders, and one each LOOK_S.

    Raises OSError where the kernel will not watch; RuntimeError is what watchfiles makes of some of these.
    """
    wanted = {os.path.join(place.folder, place.name) for place in places}
    changes = awatch(
        *sorted({place.folder for place in places}),
        watch_filter=lambda _, changed: changed in wanted,
        debounce=DEBOUNCE_MS,
        step=QUIET_MS,
        rust_timeout=int(LOOK_S * 1000),
        yield_on_timeout=True,
        recursive=False,
        ignore_permission_denied=True,
    )
    async with contextlib.aclosing(changes):
        async for _ in changes:
            yield


class ConfigWatch:
    """``reload`` raises ConfigError for a file that is wrong; whoever reloads has said so, and keeps it.

    ``catch_up``: called once at the beginning, for what was saved since the daemon read the file.
    """

    def __init__(
        self,
        path: Path,
        reload: Callable[[], Awaitable[object]],
        clock: Clock,
        *,
        catch_up: Callable[[], Awaitable[object]],
        notified: Callable[[Collection[Place]], AsyncGenerator[None]] = notified,
        look: Callable[[Path], Seen] = look,
    ) -> None:
        self._path = path
        self._reload = reload
        self._catch_up = catch_up
        self._clock = clock
        self._notified = notified
        self._look = look
        self._said = ""
        self._seen: Seen = None

    async def keep(self) -> None:
        """For ever: a change is taken up when it has settled."""
        self._seen = await asyncio.to_thread(self._look, self._path)
        await self._catch_up()  # what was saved before that look
        while True:
            places = await asyncio.to_thread(trail, self._path)
            try:
                async with contextlib.aclosing(self._notified(places)) as changes:
                    async for _ in changes:
                        await self._check()
                        if await asyncio.to_thread(trail, self._path) != places:
                            break  # a link leads elsewhere, or a folder was replaced: others are to be watched
            except (OSError, RuntimeError) as exc:
                self._deaf(str(exc))
                await self._poll()

    def _deaf(self, error: str) -> None:
        if error != self._said:  # once, not each minute
            log.info("the configuration's folder cannot be watched; looking by the clock", error=error)
        self._said = error

    async def _poll(self) -> None:
        """For a while; then the kernel may have watches again."""
        for _ in range(POLLS):
            await self._clock.sleep(POLL_S)
            await self._check()

    async def _check(self) -> None:
        now = await asyncio.to_thread(self._look, self._path)
        if now == self._seen:
            return
        if now is None:
            now = await self._returned()
        if now == self._seen:
            return
        self._seen = now
        try:
            await self._reload()
        except ConfigError:
            pass  # said, and kept for `status`

    async def _returned(self) -> Seen:
        """What is there again within ABSENT_S; None: nothing."""
        deadline = self._clock.now() + ABSENT_S
        while self._clock.now() < deadline:
            await self._clock.sleep(QUIET_MS / 1000)
            now = await asyncio.to_thread(self._look, self._path)
            if now is not None:
                return now
        return None
