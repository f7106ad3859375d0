"""The keys in force in a running daemon: read at its start, when it is told to, and when the file has changed.

A file that cannot be believed means no key at all (``error`` says why): whoever shows one is refused, never let in.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from supervisor.clock import Clock
from supervisor.errors import LlmsupError
from supervisor.keys import store
from supervisor.keys.key import Key, Presented, matches

log: structlog.stdlib.BoundLogger = structlog.get_logger("keys")

LOOK_EVERY_S = 1.0


class Keyring:
    """``path``: None where there can be no keys (tests). Use from one event loop."""

    def __init__(self, path: Path | None, wall: Callable[[], datetime]) -> None:
        self.error = ""
        self._path = path
        self._wall = wall
        self._keys: dict[str, Key] = {}
        self._stamp: store.Stamp | None = None
        self._turn = asyncio.Lock()
        if path is not None:
            self._take(_read(path))

    def __repr__(self) -> str:
        return f"<Keyring {len(self._keys)}{' broken' if self.error else ''}>"

    @property
    def count(self) -> int:
        return len(self._keys)

    def find(self, shown: Presented) -> Key | None:
        """The key that was shown; None: unknown, revoked, expired, or not to be told."""
        key = self._keys.get(shown.id)
        if key is None or not matches(key, shown):
            return None
        if key.expires is not None and key.expired(self._wall()):
            return None
        return key

    async def reload(self) -> int:
        """Read the file now; how many keys there are. Never raises for what is in it."""
        if self._path is not None:
            async with self._turn:  # two readings must not overtake each other
                self._take(await asyncio.to_thread(_read, self._path))
        return len(self._keys)

    async def keep(self, clock: Clock) -> None:
        """For ever: see whether the file has changed, for whoever changes it without telling."""
        while True:
            await clock.sleep(LOOK_EVERY_S)
            try:
                if await asyncio.to_thread(self._stale):
                    await self.reload()
            except RuntimeError:  # no thread to be had: not now, then
                continue

    def _stale(self) -> bool:
        if self._path is None:
            return False
        try:
            return bool(self.error) or store.stamp(self._path) != self._stamp
        except OSError:
            return True

    def _take(self, found: store.Content | LlmsupError) -> None:
        if isinstance(found, LlmsupError):
            if str(found) != self.error:
                log.error("no key is accepted", error=str(found))
            self.error, self._keys, self._stamp = str(found), {}, None
            return
        if self.error or found.stamp != self._stamp:
            log.info("keys read", keys=len(found.keys))
        self.error, self._stamp = "", found.stamp
        self._keys = {key.id: key for key in found.keys}


def _read(path: Path) -> store.Content | LlmsupError:
    try:
        return store.read(path)
    except LlmsupError as exc:
        return exc
