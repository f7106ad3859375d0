"""Time as a parameter: whatever waits or measures is handed one of these, so that tests can jump.

Monotonic seconds decide; wall-clock time is for people to read and for nothing else.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""

    def now_ns(self) -> int:
        """The same in whole nanoseconds, for what must not be rounded."""

    def wall(self) -> datetime:
        """The time of day in UTC, for display."""

    async def sleep(self, seconds: float) -> None:
        """Wait; returns at once for zero or less."""


class SystemClock:
    # Asked several times a request: without a call of ours in between.
    now = staticmethod(time.monotonic)
    now_ns = staticmethod(time.monotonic_ns)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
