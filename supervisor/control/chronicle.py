"""Turns what happens in the daemon into events: the one place that knows both."""

from collections.abc import Mapping
from typing import Any

from supervisor.clock import Clock
from supervisor.control.eventlog import EventLog
from supervisor.events import Death, InstanceView
from supervisor.types import ModelName


class Chronicle:
    """Whoever has something to tell calls one of these; nothing here waits or raises for what is told."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self.log = log
        self._clock = clock
        self._states: dict[ModelName, str] = {}
        self._deaths: dict[ModelName, Death | None] = {}

    def begin(self, views: Mapping[ModelName, InstanceView]) -> None:
        """What is so before anything happens is no event."""
        for view in views.values():
            self._states[view.name], self._deaths[view.name] = view.state, view.last_death

    def on_view(self, view: InstanceView) -> None:
        """For the fleet: something about an instance has changed."""
        death = view.last_death
        if death is not None and death != self._deaths.get(view.name):
            self._deaths[view.name] = death
            self._add("death", _death(view.name, death))
        before = self._states.get(view.name)
        if view.state != before:
            self._states[view.name] = view.state
            self._add("state", _state(view, before))

    def forget(self, name: ModelName) -> None:
        """It has been removed. What has happened stays told."""
        self._states.pop(name, None)
        self._deaths.pop(name, None)

    def reloaded(self, outcome: Mapping[str, Any]) -> None:
        self._add("reload", outcome)

    def config_refused(self, message: str) -> None:
        self._add("config_error", {"message": message})

    def action(self, verb: str, subject: str | None) -> None:
        """``subject``: the model or request it is about; None: the daemon itself."""
        self._add("action", {"verb": verb, "subject": subject})

    def rate_limited(self, client: str, limit: str, refused: int) -> None:
        """``refused``: how often in the minute that is over."""
        self._add("rate_limit", {"client": client, "limit": limit, "refused": refused})

    def client_banned(self, client: str, seconds: float) -> None:
        """``seconds``: for how long."""
        self._add("client_banned", {"client": client, "seconds": seconds})

    def _add(self, kind: str, data: Mapping[str, Any]) -> None:
        self.log.add(kind, self._clock.wall(), data)


def _state(view: InstanceView, before: str | None) -> dict[str, Any]:
    return {
        "model": view.name,
        "state": view.state,
        "before": before,
        "generation": view.generation,
        "why": view.why(),
    }


def _death(name: ModelName, death: Death) -> dict[str, Any]:
    """Without the child's last lines: those are in /deaths, and a crash loop would fill the ring with them."""
    return death.as_dict() | {
        "model": name,
        "generation": death.generation,
        "phase": death.phase,
        "evidence": death.evidence,
        "then": death.then,
    }
