"""The llama-servers of one model: the one in service, and at times a second beside it.

Each is an `Instance`, the one writer of its own child, with its table and its history; nothing of that is changed
here. The second rests, unless the first is to be replaced without a pause (the next one is warmed, then it takes over, then the old
one finishes what it has and ends) or the model has a standby.

Whoever looks at the model sees one view: that of the instance in service, with what is known of the model as a whole. Who is in
service changes in one step, between two views. Generations are counted over both, so a number names one
process, and a later number is a later process. Everything here happens in the loop, without a pause in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from supervisor.events import Death, InstanceView, Second, Unload
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.fitting import DOES_NOT_FIT
from supervisor.proc.instance import Instance
from supervisor.proc.state import Event
from supervisor.types import Generation, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("lineup")

AT_REST = frozenset({"STOPPED", "FAILED", "UNKILLABLE"})
LEAVING = frozenset({"STOPPED", "DRAINING", "STOPPING"})
TURNED_BACK = frozenset(
    {"BACKOFF", "CRASHLOOP", "FAILED", "UNKILLABLE"}
)  # the next one will not be READY soon
SECOND = "#2"  # the second's seat

Room = Callable[[ModelSpec], Awaitable[Cause | None]]  # None: there is memory for this one too


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a model stays in memory. ``ttl_s``: idle; None: until somebody needs the room."""

    preload: bool = True
    ttl_s: float | None = None
    standby: bool = False


class Lineup:
    """``changed`` is called when something about the model as a whole has changed."""

    def __init__(
        self, instances: Iterable[Instance], terms: Terms, changed: Callable[["Lineup"], None]
    ) -> None:
        self._front, *others = instances
        self._back = others[0] if others else None
        self.name: ModelName = self._front.name
        self.terms = terms
        self.closing = False
        self.removed = False  # from the configuration
        self._changed = changed
        self._views = {instance: instance.view() for instance in self.instances}
        self._beyond: Generation | None = None  # who is READY with a later one takes over
        self._last_death: Death | None = None
        self._last_unload: Unload | None = None
        self._not_replaced: str | None = None
        self._no_standby: str | None = None

    def __repr__(self) -> str:
        return f"<Lineup {self.name}: {self._front!r}, then {self._back!r}>"

    @property
    def front(self) -> Instance:
        """In service, or to be."""
        return self._front

    @property
    def instances(self) -> tuple[Instance, ...]:
        return (self._front,) if self._back is None else (self._front, self._back)

    @property
    def at_rest(self) -> bool:
        return all(view.state in AT_REST for view in self._views.values())

    @property
    def gone(self) -> bool:
        """Whether no process of it is left, and none is wished for."""
        return all(view.state == "STOPPED" and not view.wanted for view in self._views.values())

    @property
    def second_at_rest(self) -> bool:
        return self._back is None or self._views[self._back].state in AT_REST

    @property
    def standing_by(self) -> bool:
        """Whether a second is kept that is not needed just now."""
        back = self._back
        return back is not None and self._beyond is None and self._views[back].wanted

    # ---- what is seen

    def view(self) -> InstanceView:
        front = self._views[self._front]
        return replace(
            front,
            restarts=sum(view.restarts for view in self._views.values()),
            last_death=self._last_death,
            on_demand=self._on_demand(front),
            second=self._second(),
            last_unload=self._last_unload,
            not_replaced=self._not_replaced,
            removed=self.removed,
        )

    def _on_demand(self, front: InstanceView) -> bool:
        if self.closing or (self.terms.preload and not front.generation):  # it is about to be started
            return False
        if (
            front.state == "CRASHLOOP"
        ):  # for want of memory that others held: it may be free by now, or be made so
            return front.last_death is not None and front.last_death.cause == DOES_NOT_FIT
        return not front.wanted and front.state in LEAVING

    def _second(self) -> Second | None:
        if self._back is None:
            return None
        view = self._views[self._back]
        if self._beyond is not None:
            role = "next"
        elif view.wanted or (view.state == "STOPPED" and self._no_standby is not None):
            role = "standby"
        elif view.state == "STOPPED":
            return None
        else:
            role = "leaving"
        why = view.why() if view.state in TURNED_BACK else self._no_standby
        return Second(role, view.state, view.generation, view.pid, why)

    def take(self, instance: Instance, view: InstanceView) -> None:
        """The newest of one of the two. Decides who is in service."""
        before = self._views[instance]
        self._views[instance] = view
        if view.last_death is not None and view.last_death is not before.last_death:
            self._last_death = view.last_death
        if self._back is None:
            return
        front, back = self._views[self._front], self._views[self._back]
        due = self._beyond is not None and back.generation > self._beyond
        if back.ready and back.wanted and front.wanted and (due or not front.ready):
            self._change_places(self._back)
        elif (due or (self._beyond is not None and back.state == "UNKILLABLE")) and back.state in TURNED_BACK:
            self._turn_back(self._back)

    def _change_places(self, to: Instance) -> None:
        old, self._front, self._back = self._front, to, self._front
        replaced, self._beyond = self._beyond is not None, None
        view = self._views[old]
        log.info(
            "takes over",
            model=self.name,
            generation=self._views[to].generation,
            instead_of=view.generation,
            because="it is the next one" if replaced else f"that one is {view.state}",
        )
        if replaced and view.ready:
            old.post(Event.RESTART)  # it drains; what else is wished follows its end
        if not self.terms.standby:
            old.post(Event.STOP)

    def _turn_back(self, back: Instance) -> None:
        """The next one ended before it could serve."""
        death = self._views[back].last_death
        self._beyond = None
        if not self.terms.standby:
            back.post(Event.STOP)
        if death is not None and death.cause == DOES_NOT_FIT and not death.permanent:
            self._one_after_the_other(death.detail)
        else:
            self._refuse(f"{death.cause}: {death.detail}" if death is not None else "it ended")

    def _without_room(self, cause: Cause) -> None:
        """What stands in the way of a second one is the first, or what would stand in the way of any."""
        if cause.name == DOES_NOT_FIT and not cause.permanent:
            self._one_after_the_other(cause.detail)
        else:
            self._refuse(f"{cause.name}: {cause.detail}")
            self._changed(self)

    def _refuse(self, why: str) -> None:
        self._not_replaced = f"the new llama-server could not start ({why}); the old one goes on"
        log.error("not replaced", model=self.name, because=self._not_replaced)

    def _one_after_the_other(self, why: str) -> None:
        log.warning(
            "no memory for two at a time: requests wait until it is back", model=self.name, because=why
        )
        self._front.post(Event.RESTART)

    # ---- what is wished

    async def command(self, event: Event) -> None:
        """Of an operator, to the model as a whole: START, STOP or STOP_NOW."""
        if event in {Event.STOP, Event.STOP_NOW}:
            self._beyond = self._no_standby = None
            await asyncio.gather(*(instance.command(event) for instance in self.instances))
        else:
            self._not_replaced = None
            await self._front.command(event)

    def retire(self) -> None:
        """It is no longer configured: nothing new, what is in flight is answered, then it ends."""
        self.removed = self.closing = True
        self.terms = Terms(preload=False)
        self._beyond = self._no_standby = None
        for instance in self.instances:
            instance.post(Event.STOP)  # at once, so that whoever revives it comes after
        self._changed(self)

    def revive(self) -> None:
        """It is configured again, and has not gone yet."""
        self.removed = self.closing = False
        self._changed(self)

    async def unload(self, reason: str, at: datetime) -> None:
        """Out of memory, once what is in flight has been answered."""
        self._last_unload = Unload(reason, at)
        log.info("unloading", model=self.name, because=reason)
        await self.command(Event.STOP)

    async def restart(self, room: Room) -> None:
        """Anew: beside the old one where there is memory for two, else after it."""
        self._not_replaced = None
        front, back = self._views[self._front], self._back
        if back is None or not front.ready or self._views[back].state == "UNKILLABLE":
            await self._front.command(Event.RESTART)
            return
        if self._beyond is not None:  # one is on its way already: that one anew, the old one as before
            await back.command(Event.RESTART)
            return
        if self._views[back].wanted:
            await self._begin(back, Event.RESTART)
            return
        cause = await room(back.spec)
        if not self._at_leisure(back):  # it was stopped, has died or was restarted meanwhile: that counts now
            return
        if cause is not None:
            self._without_room(cause)
        else:
            await self._begin(back, Event.START)

    async def _begin(self, back: Instance, event: Event) -> None:
        """From now on whoever is newer than all there are takes over."""
        self._beyond = Generation(max(view.generation for view in self._views.values()))
        await back.command(event)
        self._changed(self)

    def _at_leisure(self, back: Instance) -> bool:
        """The one in service serves and is to, and the second is not needed for anything yet."""
        front, second = self._views[self._front], self._views[back]
        return (
            back is self._back and self._beyond is None and front.ready and front.wanted and not second.wanted
        )

    async def tend(self, room: Room) -> None:
        """Called now and then: a standby is begun where one is wanted, missing, and there is memory for it; one that is
        not wanted any more is ended.
        """
        back = self._back
        if back is None or self._beyond is not None:
            return
        if not self.terms.standby:
            self._no_standby = None
            if self._views[back].wanted:  # it was wished for once
                await back.command(Event.STOP)
            return
        if not self._at_leisure(back) or self._views[back].state != "STOPPED":
            return
        cause = await room(back.spec)
        if not self._at_leisure(back):
            return
        before, self._no_standby = self._no_standby, f"{cause.name}: {cause.detail}" if cause else None
        if cause is None:
            await back.command(Event.START)
        elif before is None:
            log.warning("no standby", model=self.name, because=cause.detail)
        self._changed(self)

    async def release(self, why: str) -> None:
        """Give up the standby: somebody needs its memory."""
        if self._back is not None and self.standing_by:
            self._no_standby = why
            await self._back.command(Event.STOP)
