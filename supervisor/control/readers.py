"""Reads of a disk for whoever looks on: each in a thread of its own, few at a time.

Not in the loop's threads: those are few, the daemon's own work needs them, and its end waits for them; a disk may
hang for ever.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from supervisor.errors import QueueFull

T = TypeVar("T")

MOST = 8


class Readers:
    """``busy``: how many are out, those included for whose answers nobody waits any more."""

    def __init__(self, most: int = MOST) -> None:
        self.busy = 0
        self._most = most

    def __repr__(self) -> str:
        return f"<Readers {self.busy} of {self._most}>"

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises.

        Raises:
            QueueFull: so many others have not come back, or there is no thread to be had.
        """
        if self.busy >= self._most:
            raise QueueFull(f"{self.busy} reads of log files have not come back", hint="does the disk hang?")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def back(result: T | None, error: Exception | None) -> None:
            self.busy -= 1
            if outcome.done():  # nobody waits any more
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)  # type: ignore[arg-type]  # None only where T is

        def read() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as exc:  # noqa: BLE001  handed to whoever waits
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(back, result, error)

        try:
            threading.Thread(target=read, name="control-read", daemon=True).start()
        except RuntimeError as exc:
            raise QueueFull(f"no thread to read with: {exc}") from exc
        self.busy += 1
        return await outcome
