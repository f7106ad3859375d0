"""The tasks an instance has beside its own: each has a name, and a new one takes the place of the old."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")


class Jobs:
    """``of``: whose they are, for their names and the log."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Jobs of {self._of}: {', '.join(self._tasks) or 'none'}>"

    def start(
        self, name: str, work: Coroutine[Any, Any, None], failed: Callable[[str, BaseException], None]
    ) -> None:
        """Begin; ``failed`` is told the task's name and its error, should it end with one."""
        old = self._tasks.pop(name, None)
        if old is not None:
            old.cancel()
        task = asyncio.create_task(work, name=f"{self._of}.{name}")
        self._tasks[name] = task
        task.add_done_callback(partial(self._done, failed))

    def _done(self, failed: Callable[[str, BaseException], None], task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job failed", model=self._of, job=task.get_name(), exc_info=error)
            failed(task.get_name(), error)

    def end_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
