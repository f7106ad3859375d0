"""All children of this state folder, whichever daemon began them: marked, locked and written down at each spawn,
and ended by those marks when a daemon could not do it any more.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from supervisor.clock import Clock
from supervisor.proc import leftovers, lifelock, orphans
from supervisor.proc.causes import Cause
from supervisor.proc.command import MARKER, ModelSpec
from supervisor.proc.leftovers import Record
from supervisor.proc.run import Launch, Run
from supervisor.proc.tools import StartsRuns
from supervisor.types import Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("children")

SWEEPS, SWEEP_PAUSE_S = 4, 0.05  # in the middle of an exec a process shows no environment, and so no marker


class Children:
    """Stands before a launcher as one itself (`tools.StartsRuns`). ``folder``: the run folder, which exists."""

    def __init__(self, folder: Path, launcher: StartsRuns) -> None:
        self._folder = folder
        self._launcher = launcher
        self._path = folder / leftovers.FILE_NAME
        self._boot_id = leftovers.boot_id()
        self._records: tuple[Record, ...] = ()
        self._runs: list[Run] = []
        self.home = home_of(folder)

    # ---- before the first spawn

    def sweep(self) -> None:
        """End what an earlier daemon left. Blocks: milliseconds, seconds when something was found."""
        self._records = leftovers.recorded(self._path)
        locks = lifelock.paths(self._folder)
        for turn in range(SWEEPS):
            if turn:
                time.sleep(SWEEP_PAUSE_S)
            self._end(locks)
            if not any(lifelock.is_held(path) for path in locks):
                return

    def _end(self, locks: list[Path]) -> None:
        """End what is ours beyond doubt."""
        held = frozenset(leftovers.file_id(path) for path in locks if lifelock.is_held(path))
        found = list(
            leftovers.left_over(
                leftovers.processes(held), self._records, boot_id=self._boot_id, home=self.home
            )
        )
        for seen, why in found:
            log.warning("ending a process left over", pid=seen.pid, marker=seen.marker, known_by=why)
            leftovers.end(seen)
        for seen in leftovers.await_gone(seen for seen, _ in found):
            log.error("a process left over cannot be ended", pid=seen.pid, marker=seen.marker)

    # ---- before each spawn

    def checked(
        self, check: Callable[[ModelSpec], Awaitable[Cause | None]]
    ) -> Callable[[ModelSpec], Awaitable[Cause | None]]:
        """``check`` with a look before it: does a process of an earlier generation live?"""

        async def both(spec: ModelSpec) -> Cause | None:
            return await self._cleared(spec.holder) or await check(spec)

        return both

    async def _cleared(self, model: str) -> Cause | None:
        """Two copies of one model never meet in one seat: they might not fit. A wanted second one has its own."""
        lock = lifelock.path_of(self._folder, model)
        if not lifelock.is_held(lock):
            return None
        await asyncio.to_thread(self._end_of_model, model, lock)
        if not lifelock.is_held(lock):
            return None
        return Cause(
            "spawn_failed", f"not possible just now: a process of its earlier run still holds {lock}"
        )

    def _end_of_model(self, model: str, lock: Path) -> None:
        """Only of this one: the others' children are well."""
        held = frozenset({leftovers.file_id(lock)})
        ours = [
            seen
            for seen in leftovers.processes(held)
            if seen.lock and model_of(seen.marker) == model and seen.marker.startswith(f"{self.home}:")
        ]
        for seen in ours:
            log.warning("ending a process of an earlier run", model=model, pid=seen.pid)
            leftovers.end(seen)
        leftovers.await_gone(ours)

    # ---- what they left behind

    async def keep(self, clock: Clock) -> None:
        """For ever: reap what our children left to us and has ended since (`orphans`)."""
        while True:
            await clock.sleep(orphans.REAP_EVERY_S)
            try:
                orphans.reap({run.child.pid for run in self._living()})
            except OSError as exc:
                log.warning("orphans cannot be reaped", error=str(exc))

    # ---- the spawn

    def start(self, launch: Launch, generation: Generation, on_exit: Callable[[], None]) -> Run:
        """As the launcher does, and raises; the child is marked, holds its model's lock, and is written down."""
        marker = f"{self.home}:{launch.env.get(MARKER, '')}"
        model = model_of(marker)
        lock = self._take(model)
        try:
            marked = replace(
                launch,
                env=launch.env | {MARKER: marker},
                pass_fds=() if lock is None else (lock,),
            )
            run = self._launcher.start(marked, generation, on_exit)
        finally:
            if lock is not None:
                os.close(lock)  # from now on it is the child's alone
        self._runs = [*self._living(), run]
        self._write_down(run, marker, model, launch.argv[0])
        return run

    def _living(self) -> list[Run]:
        """Those that are not buried yet: their pids are reaped by nobody else."""
        return [run for run in self._runs if run.status is None]

    def _take(self, model: str) -> int | None:
        try:
            return lifelock.take(lifelock.path_of(self._folder, model))
        except OSError as exc:  # somebody removed the folder: the child is more important than its witness
            log.warning("a child starts without a lock", model=model, error=str(exc))
            return None

    def _write_down(self, run: Run, marker: str, model: str, program: str) -> None:
        pid = run.child.pid
        begun = leftovers.started(pid)
        if begun is None:  # it has ended already; or there is no /proc, and nothing to compare with later
            return
        living = [one for one in self._records if leftovers.started(one.pid) == one.started]
        exe = leftovers.file_id(Path(program))
        record = Record(self._boot_id, pid, begun, marker, exe, model, int(run.generation))
        self._records = (*living, record)
        try:
            leftovers.dump(self._records, self._path)
        except OSError as exc:  # a full disk: marker and lock remain, and two are enough
            log.warning("children are not written down", path=str(self._path), error=str(exc))


def home_of(folder: Path) -> str:
    """Names a state folder, the same for each daemon of it and for no other one's."""
    facts = ""
    with contextlib.suppress(OSError):
        facts = leftovers.file_id(folder)
    return hashlib.sha256(f"{os.path.realpath(folder)}:{facts}".encode()).hexdigest()[:16]


def model_of(marker: str) -> str:
    """Of ``home:daemon:model:generation``, its seat included; a model's name may hold colons."""
    return ":".join(marker.split(":")[2:-1])
