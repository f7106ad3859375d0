"""What the views of the models say over time: restarts by cause, and how long it took until a model was back."""

from dataclasses import dataclass

from supervisor.events import Death, InstanceView
from supervisor.observe.metrics import RECOVERY_S, Tally
from supervisor.types import Generation, ModelName

UNKNOWN = "unknown"


@dataclass(slots=True)
class _Seen:
    """``down_since``: when it was seen to serve no more; ``died``: that this was a death."""

    ready: bool
    generation: Generation
    death: Death | None
    restarts: int
    down_since: float | None = None
    died: bool = False


class Recoveries:
    """``restarts``: by model and cause."""

    def __init__(self) -> None:
        self.restarts: dict[tuple[str, str], int] = {}
        self.took = Tally(RECOVERY_S)
        self._seen: dict[ModelName, _Seen] = {}

    def __repr__(self) -> str:
        return f"<Recoveries {sum(self.restarts.values())} restarts, {self.took}>"

    def on_view(self, view: InstanceView, now: float) -> None:
        """The newest view of a model."""
        seen = self._seen.get(view.name)
        if seen is None:
            seen = self._seen[view.name] = _Seen(False, view.generation, None, 0)
        self._count(seen, view)
        died = view.last_death is not None and view.last_death is not seen.death
        replaced = view.generation != seen.generation
        if seen.ready and (not view.ready or replaced):
            seen.down_since, seen.died = now, False
        if seen.down_since is not None:
            seen.died |= died
            if view.ready:
                if seen.died:
                    self.took.observe(now - seen.down_since)
                seen.down_since = None
            elif not view.wanted:  # when it comes back is somebody's wish from now on
                seen.down_since = None
        seen.ready, seen.generation, seen.death = view.ready, view.generation, view.last_death

    def forget(self, name: ModelName) -> None:
        """It has been removed."""
        self._seen.pop(name, None)
        for label in [label for label in self.restarts if label[0] == name]:
            del self.restarts[label]

    def _count(self, seen: _Seen, view: InstanceView) -> None:
        more, seen.restarts = view.restarts - seen.restarts, view.restarts
        if more > 0:
            cause = view.last_death.cause if view.last_death is not None else UNKNOWN
            self.restarts[view.name, cause] = self.restarts.get((view.name, cause), 0) + more
