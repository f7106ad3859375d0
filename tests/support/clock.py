"""A clock that stands still until it is told to jump."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

SETTLE_ROUNDS = 30  # turns of the loop; the longest chain of wake-ups in a test is about ten
START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `supervisor.clock.Clock`. ``advance`` wakes the sleepers one by one, in order of their time."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._set_by = timedelta()
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:.3f}, {len(self._sleepers)} sleeping>"

    def now(self) -> float:
        return self._now

    def now_ns(self) -> int:
        return round(self._now * 10**9)

    def wall(self) -> datetime:
        return START + self._set_by + timedelta(seconds=self._now)

    def set_wall(self, by: timedelta) -> None:
        """Somebody sets the time of day."""
        self._set_by += by

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), wake))
        await wake

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        target = self._now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            when, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():  # cancelled ones are of no interest any more
                self._now = when
                wake.set_result(None)
                await self.settle()
        self._now = target
        await self.settle()
