"""What differs between two configurations, key by key, as text that holds no secret; and when it takes effect."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from supervisor.settings.load import Loaded, leaves
from supervisor.settings.problems import dotted
from supervisor.settings.schema import Settings
from supervisor.settings.show import Shown, flow, shown
from supervisor.settings.yamlio import KeyPath

AT_ONCE = "at once"
NEXT_START = "next start of llmsup"
ANOTHER = "(another value)"  # beside a masked value that has changed
# Keys of a model that are about llmsup, not about its llama-server.
NO_RESTART = frozenset({"aliases", "preload", "ttl_s", "standby", "startup_stall_s", "safe_profile"})


@dataclass(frozen=True, slots=True)
class Change:
    """``old`` and ``new`` as `config show` prints them; None: the key was not there, or is no more."""

    key: str
    old: str | None
    new: str | None
    effect: str

    def lines(self) -> Iterator[str]:
        """As in a diff."""
        if self.old is not None:
            yield f"- {self.key}: {self.old}"
        if self.new is not None:
            yield f"+ {self.key}: {self.new}"

    def as_dict(self) -> dict[str, str | None]:
        return {"key": self.key, "old": self.old, "new": self.new, "effect": self.effect}


def changed(old: Settings, new: Settings) -> tuple[KeyPath, ...]:
    """The paths whose values differ, in the order of the file; a model that came or went is one path."""
    return tuple(_differences(old.model_dump(), new.model_dump(), ()))


def diff(old: Loaded, new: Loaded, live: Collection[str] = ()) -> tuple[Change, ...]:
    """Every change. ``live``: the keys that a running daemon takes up."""
    paths = changed(old.settings, new.settings)
    if not paths:
        return ()
    before, after = _Side(old), _Side(new)
    return tuple(_change(path, before.text(path), after.text(path), live) for path in paths)


def under(path: KeyPath, prefixes: Collection[str]) -> bool:
    """Whether one of the prefixes is the path, or a section around it."""
    return any(dotted(path[:length]) in prefixes for length in range(1, len(path) + 1))


def effect(path: KeyPath, live: Collection[str]) -> str:
    if not under(path, live):
        return NEXT_START
    if path[0] == "models" and len(path) > 2 and path[2] not in NO_RESTART:
        return f"restart of model {path[1]}"
    return AT_ONCE


def _change(path: KeyPath, old: str | None, new: str | None, live: Collection[str]) -> Change:
    if old == new and new is not None:  # both masked
        new = f"{new} {ANOTHER}"
    return Change(dotted(path), old, new, effect(path, live))


class _Side:
    """One of the two configurations, ready to be shown."""

    def __init__(self, loaded: Loaded) -> None:
        self._data = loaded.settings.model_dump()
        self._shown = shown(loaded)

    def text(self, path: KeyPath) -> str | None:
        """None: there is no such key. A section shows what was written of it, or else all of it."""
        found: Any = self._data
        for part in path:
            if not isinstance(found, dict) or part not in found:
                return None
            found = found[part]
        if not isinstance(found, dict) or not found:
            return self._shown[dotted(path)].text
        inside = {inner: self._shown[dotted((*path, *inner))] for inner in leaves(found)}
        written = {inner: one for inner, one in inside.items() if one.source != "default"}
        return _section(written or inside)


def _section(inside: dict[KeyPath, Shown]) -> str:
    return flow({dotted(inner): one.value for inner, one in inside.items()})


def _differences(old: Any, new: Any, path: KeyPath) -> Iterator[KeyPath]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield path
        return
    for key in dict.fromkeys([*new, *old]):
        if key in old and key in new:
            yield from _differences(old[key], new[key], (*path, key))
        else:
            yield (*path, key)
