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
        self._tasks: list[asyncio.Task[None]] = []
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
        if self._notifying is None or self._notifying.done():
            self._notifying = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def add(self, instances: Iterable[Instance], terms: Mapping[ModelName, Terms] | None = None) -> None:
        """Take them in, still without life. Of two with one name, the first is in service first."""
        of: dict[ModelName, list[Instance]] = {}
        for instance in instances:
            of.setdefault(instance.name, []).append(instance)
            view = instance.view()
            self._seats[view.holder], self._holders[view.holder] = instance, view
        for name, members in of.items():
            lineup = Lineup(members, (terms or {}).get(name, Terms()), self._announce)
            self._lineups[name], self._views[name] = lineup, lineup.view()

    def open(self) -> None:
        """Begin to work through the mailboxes."""
        for holder, instance in self._seats.items():
            self._tasks.append(asyncio.create_task(self._guard(instance), name=f"instance.{holder}"))

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
        try:
            return self._lineups[ModelName(name)]
        except KeyError:
            raise NotFound(
                f"there is no model named {name!r}", hint=f"configured: {', '.join(self._lineups)}"
            ) from None

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
        return not any(task.done() for task in self._tasks)

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for instance in self._seats.values():
            await instance.close()
