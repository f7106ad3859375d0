"""The set of instances: one task each, and the newest view of each for whoever asks."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import structlog

from supervisor.clock import Clock
from supervisor.errors import NotFound
from supervisor.events import InstanceView
from supervisor.proc.instance import Instance
from supervisor.proc.state import Event
from supervisor.types import Generation, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("fleet")

RESTART_PAUSE_S = 1.0  # after an error of our own in an instance's task
AT_REST = frozenset({"STOPPED", "FAILED", "UNKILLABLE"})


class Fleet:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instances: dict[ModelName, Instance] = {}
        self._views: dict[ModelName, InstanceView] = {}
        self._listeners: list[Callable[[InstanceView], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._notifying: asyncio.Task[None] | None = None

    @property
    def views(self) -> Mapping[ModelName, InstanceView]:
        return MappingProxyType(self._views)

    def subscribe(self, listener: Callable[[InstanceView], None]) -> None:
        """Call ``listener`` in the loop with each new view."""
        self._listeners.append(listener)

    def publish(self, view: InstanceView) -> None:
        """For instances: the newest view of one."""
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

    def add(self, instances: Iterable[Instance]) -> None:
        """Take them in, still without life."""
        for instance in instances:
            self._instances[instance.name] = instance
            self._views[instance.name] = instance.view()

    def open(self) -> None:
        """Begin to work through the mailboxes."""
        for instance in self._instances.values():
            self._tasks.append(asyncio.create_task(self._guard(instance), name=f"instance.{instance.name}"))

    async def _guard(self, instance: Instance) -> None:
        """An error of our own in one instance stays with it: said with its traceback, then on."""
        while True:
            try:
                await instance.serve()
            except Exception:
                log.exception("instance task failed; going on", model=instance.name)
                await self._clock.sleep(RESTART_PAUSE_S)

    def find(self, name: str) -> Instance:
        """Raises NotFound with the names there are."""
        try:
            return self._instances[ModelName(name)]
        except KeyError:
            raise NotFound(
                f"there is no model named {name!r}", hint=f"configured: {', '.join(self._instances)}"
            ) from None

    def recycle(self, name: ModelName, generation: Generation, evidence: str) -> None:
        """That generation takes too much memory."""
        self._instances[name].recycle(generation, evidence)

    def poke(self, name: ModelName, generation: Generation) -> None:
        """A request could not reach that generation."""
        self._instances[name].poke(generation)

    async def command(self, name: str, event: Event) -> None:
        await self.find(name).command(event)

    def is_served(self) -> bool:
        """Whether every instance has its task still."""
        return not any(task.done() for task in self._tasks)

    async def send_all(self, event: Event) -> None:
        # All at once: one that is busy (a model on a file server that hangs) must not keep the others waiting.
        await asyncio.gather(*(instance.command(event) for instance in self._instances.values()))

    async def start_all(self) -> None:
        await self.send_all(Event.START)

    async def stop_all(self, *, now: bool = False) -> None:
        """Returns when every child is gone, or has proved unkillable."""
        await self.send_all(Event.STOP_NOW if now else Event.STOP)
        await self.wait_for(lambda views: all(view.state in AT_REST for view in views.values()))

    async def wait_for(self, condition: Callable[[Mapping[ModelName, InstanceView]], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self._views))

    async def close(self) -> None:
        """After stop_all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for instance in self._instances.values():
            await instance.close()
