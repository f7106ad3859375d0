"""What differs between two configurations, by dotted key; and which of it a living daemon takes up at once."""

from typing import Any

from supervisor.settings.problems import dotted
from supervisor.settings.schema import Settings

AT_ONCE = frozenset({"log.level"})
TLS_FILES = frozenset({"tls.cert_file", "tls.key_file"})  # likewise, but for switching TLS on or off


def changed(old: Settings, new: Settings) -> tuple[str, ...]:
    """The keys whose values differ, in the order of the file; a model that came or went is one key."""
    return tuple(_differences(old.model_dump(), new.model_dump(), ()))


def _differences(old: Any, new: Any, path: tuple[str | int, ...]) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [dotted(path)]
    found: list[str] = []
    for key in dict.fromkeys([*new, *old]):
        if key in old and key in new:
            found += _differences(old[key], new[key], (*path, key))
        else:
            found.append(dotted((*path, key)))
    return found
