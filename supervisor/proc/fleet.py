"""The set of instances: one task each, and the newest view of each model for whoever asks."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import structlog

from supervisor.clock import Clock
from supervisor.errors import NotFound
from supervisor.events import InstanceView
from supervisor.proc.instance import Instance
from supervisor.proc.lineup import Lineup, Room, Terms
from supervisor.proc.state import Event
from supervisor.types import Generation, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("fleet")

RESTART_PAUSE_S = 1.0  # after an error of our own in an instance's task


class Fleet:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lineups: dict[ModelName, Lineup] = {}
        self._seats: dict[str, Instance] = {}
        self._views: dict[ModelName, InstanceView] = {}
        self._holders: dict[str, InstanceView] = {}
        self._listeners: list[Callable[[InstanceView], None]] = []
        self._departures: list[Callable[[ModelName], None]] = []
        self._tasks: dict[str, asyncio.Task[None]] | None = None  # by holder; None: not opened yet
        self._changed = asyncio.Condition()
        self._notifying: asyncio.Task[None] | None = None

    @property
    def views(self) -> Mapping[ModelName, InstanceView]:
        """One of each model: of its instance in service."""
        return MappingProxyType(self._views)

    @property
    def holders(self) -> Mapping[str, InstanceView]:
        """One of each instance, by ``InstanceView.holder``: whoever counts memory must see them all."""
        return MappingProxyType(self._holders)

    @property
    def lineups(self) -> Mapping[ModelName, Lineup]:
        return MappingProxyType(self._lineups)

    def subscribe(self, listener: Callable[[InstanceView], None]) -> None:
        """Call ``listener`` in the loop with each new view."""
        self._listeners.append(listener)

    def when_gone(self, listener: Callable[[ModelName], None]) -> None:
        """Call ``listener`` in the loop with the name of each model that has been removed: nothing is to be kept of it."""
        self._departures.append(listener)

    def publish(self, view: InstanceView) -> None:
        """For instances: the newest view of one."""
        lineup = self._lineups[view.name]
        self._holders[view.holder] = view
        lineup.take(self._seats[view.holder], view)
        self._announce(lineup)

    def _announce(self, lineup: Lineup) -> None:
        view = lineup.view()
        if self._views.get(view.name) == view:
            return
        self._views[view.name] = view
        for listener in self._listeners:
            try:
                listener(view)
            except Exception:  # whoever looks on must not hurt the instance
                log.exception("listener failed", model=view.name)
        self._wake()

    def _wake(self) -> None:
        if self._notifying is None or self._notifying.done():
            self._notifying = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def add(self, instances: Iterable[Instance], terms: Mapping[ModelName, Terms] | None = None) -> None:
        """Take them in, without life until `open`. Of two with one name, the first is in service first."""
        of: dict[ModelName, list[Instance]] = {}
        for instance in instances:
            of.setdefault(instance.name, []).append(instance)
            view = instance.view()
            self._seats[view.holder], self._holders[view.holder] = instance, view
        for name, members in of.items():
            lineup = Lineup(members, (terms or {}).get(name, Terms()), self._announce)
            self._lineups[name], self._views[name] = lineup, lineup.view()
        if self._tasks is not None:
            self.open()

    def open(self) -> None:
        """Begin to work through the mailboxes; those of models that are added later are, at once."""
        self._tasks = self._tasks or {}
        for holder, instance in self._seats.items():
            if holder not in self._tasks:
                task = asyncio.create_task(self._guard(instance), name=f"instance.{holder}")
                self._tasks[holder] = task

    async def remove(self, lineup: Lineup) -> None:
        """Forget a model whose children are gone, and tell everybody; then close what it had."""
        if self._lineups.get(lineup.name) is not lineup:
            return
        del self._lineups[lineup.name], self._views[lineup.name]
        tasks = []
        for holder in [instance.view().holder for instance in lineup.instances]:
            del self._seats[holder], self._holders[holder]
            if self._tasks is not None:
                tasks.append(self._tasks.pop(holder))
        for listener in self._departures:
            try:
                listener(lineup.name)
            except Exception:
                log.exception("listener failed", model=lineup.name)
        self._wake()
        await _ended(tasks)
        for instance in lineup.instances:
            await instance.close()

    async def _guard(self, instance: Instance) -> None:
        """An error of our own in one instance stays with it: said with its traceback, then on."""
        while True:
            try:
                await instance.serve()
            except Exception:
                log.exception("instance task failed; going on", model=instance.name)
                await self._clock.sleep(RESTART_PAUSE_S)

    def lineup(self, name: str) -> Lineup:
        """Raises NotFound with the names there are."""
        lineup = self._lineups.get(ModelName(name))
        if lineup is None or lineup.removed:
            names = [one for one, of in self._lineups.items() if not of.removed]
            raise NotFound(f"there is no model named {name!r}", hint=f"configured: {', '.join(names)}")
        return lineup

    def find(self, name: str) -> Instance:
        """The one in service."""
        return self.lineup(name).front

    def recycle(self, holder: str, generation: Generation, evidence: str) -> None:
        """That generation takes too much memory."""
        self._seats[holder].recycle(generation, evidence)

    def poke(self, name: ModelName, generation: Generation) -> None:
        """A request could not reach that generation."""
        for instance in self._lineups[name].instances:
            instance.poke(generation)

    async def command(self, name: str, event: Event) -> None:
        await self.lineup(name).command(event)

    async def restart(self, name: str, room: Room) -> None:
        await self.lineup(name).restart(room)

    def is_served(self) -> bool:
        """Whether every instance has its task still."""
        return not any(task.done() for task in (self._tasks or {}).values())

    async def send_all(self, event: Event) -> None:
        # All at once: one that is busy (a model on a file server that hangs) must not keep the others waiting.
        await asyncio.gather(*(lineup.command(event) for lineup in self._lineups.values()))

    async def start_all(self) -> None:
        """Those that are to be there before anybody asks for them."""
        preloaded = [lineup for lineup in self._lineups.values() if lineup.terms.preload]
        await asyncio.gather(*(lineup.command(Event.START) for lineup in preloaded))

    async def stop_all(self, *, now: bool = False) -> None:
        """Returns when every child is gone, or has proved unkillable."""
        for lineup in self._lineups.values():
            lineup.closing = True  # nobody loads it again
        await self.send_all(Event.STOP_NOW if now else Event.STOP)
        await self.wait_for(lambda _: all(lineup.at_rest for lineup in self._lineups.values()))

    async def wait_for(self, condition: Callable[[Mapping[ModelName, InstanceView]], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self._views))

    async def close(self) -> None:
        """After stop_all."""
        await _ended((self._tasks or {}).values())
        for instance in self._seats.values():
            await instance.close()


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
