"""Models that come and go while llmsup runs, and which of them is the default; what has changed of one is `renewal`'s.

One that comes is made as at the start, and nobody else is touched. One that goes is gone for its clients at once (404), and what waits
for it is refused with 503: its name may be another model's alias by now, so that asking again is right. What is in flight is
answered, for as long as a drain may take; then the child ends, and nothing is kept of it but its log file on the disk and its deaths.
One that comes back before it has gone begins anew after that, so that there are never two of one name.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog

from supervisor import renewal
from supervisor.parts import Parts
from supervisor.proc.instance import Instance
from supervisor.proc.lineup import Lineup
from supervisor.proc.output import LogFile
from supervisor.proc.state import Event
from supervisor.reload import Applier, Commit
from supervisor.settings.schema import Settings
from supervisor.translate import aliases_of, max_connections, terms_of
from supervisor.types import ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("roster")

CLOSE_S = 1.0  # for those that have gone and are being closed, at the end of llmsup

Made = dict[ModelName, tuple[tuple[Instance, ...], LogFile]]


class Roster:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings  # as they are in force
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Roster: {', '.join(self._settings.models)}; {len(self._tasks)} on their way>"

    def applier(self) -> Applier:
        return Applier(("models", "default_model"), self._prepare)

    def _prepare(self, fresh: Settings) -> Commit:
        """Of the other sections those from the start are in force still."""
        settings = self._parts.settings.model_copy(
            update={"models": fresh.models, "default_model": fresh.default_model}
        )
        return partial(self._commit, settings, max_connections(fresh))

    def _commit(self, settings: Settings, connections: int) -> None:
        parts, before = self._parts, self._settings
        if parts.admission.draining:  # nothing begins any more
            return
        made = self._make(settings)  # first: it alone may fail, for want of threads
        for name, (instances, log_file) in made.items():
            self._add(name, instances, log_file, settings)
        self._settings = settings
        parts.pipeline.default = parts.residents.default = ModelName(settings.default_model)
        parts.pipeline.max_connections = connections
        parts.aliases.clear()
        parts.aliases.update(aliases_of(settings))
        for name, lineup in parts.fleet.lineups.items():
            if name not in settings.models:
                self._retire(lineup)
            elif lineup.removed:
                self._revive(lineup, settings)
            elif name not in made and settings.models[name] != before.models[name]:
                renewal.renew(parts, name, settings)

    def _make(self, settings: Settings) -> Made:
        made: Made = {}
        try:
            for name in map(ModelName, settings.models):
                if name not in self._parts.fleet.lineups:
                    log_file = self._parts.log_of(name)
                    made[name] = (tuple(self._parts.instances_of(name, settings, log_file)), log_file)
        except Exception:
            for _, log_file in made.values():
                log_file.close(0)
            raise
        return made

    def _add(
        self, name: ModelName, instances: tuple[Instance, ...], log_file: LogFile, settings: Settings
    ) -> None:
        parts, terms = self._parts, terms_of(settings)[name]
        log.info("added", model=name)
        parts.model_logs[name] = log_file
        # As if it came with its first request, until its start has begun: whoever asks by then waits.
        parts.fleet.add(instances, {name: replace(terms, preload=False)})
        parts.admission.add(parts.fleet.views[name])
        if terms.preload:
            lineup = parts.fleet.lineups[name]
            lineup.front.post(Event.START)
            self._task(f"add.{name}", self._begun(lineup))

    async def _begun(self, lineup: Lineup) -> None:
        await self._parts.fleet.wait_for(lambda _: lineup.front.view().generation > 0 or lineup.removed)
        if not lineup.removed:
            lineup.terms = terms_of(self._settings)[lineup.name]

    def _retire(self, lineup: Lineup) -> None:
        if lineup.removed:
            return
        log.info("removed", model=lineup.name)
        lineup.retire()
        self._task(f"remove.{lineup.name}", self._leave(lineup))

    async def _leave(self, lineup: Lineup) -> None:
        await self._parts.fleet.wait_for(lambda _: lineup.gone or not lineup.removed)
        if lineup.removed:
            await self._parts.fleet.remove(lineup)

    def _revive(self, lineup: Lineup, settings: Settings) -> None:
        log.info("added again", model=lineup.name)
        lineup.revive()
        renewal.configure(lineup, settings)
        if lineup.terms.preload:
            lineup.front.post(Event.START)

    def _task(self, name: str, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("failed", task=task.get_name(), exc_info=error)

    async def close(self) -> None:
        """When all children are gone."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
