"""The configuration in force as JSON: every value with its origin, secrets masked."""

import re
from collections.abc import Collection, Iterator
from pathlib import PurePath
from typing import Any

from supervisor.observe import redact
from supervisor.settings.load import Loaded
from supervisor.settings.problems import dotted

# user:password@ in an address: the password.
_CREDENTIALS = re.compile(r"(?P<before>://[^/@:\s]*:)[^/@\s]+(?=@)")


def effective(loaded: Loaded, pending: Collection[str] = ()) -> dict[str, Any]:
    """``pending``: keys whose values wait for the next start."""
    settings = [
        _setting(loaded, path, value) | {"pending": dotted(path) in pending}
        for path, value in _leaves(loaded.settings.model_dump(), ())
    ]
    return {"path": str(loaded.path), "settings": settings}


def _setting(loaded: Loaded, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    key = dotted(path)
    shown = loaded.written[key] if key in loaded.written else masked(path, value)
    return {"key": key, "value": shown, "source": loaded.sources.get(key, "default")}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value


def masked(path: tuple[str, ...], value: Any) -> Any:
    """As it may be shown: without what its name, its look or its place says to be secret."""
    if isinstance(value, str) and redact.is_secret_name(path[-1]):
        return redact.MASK
    return _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return redact.text(_CREDENTIALS.sub(lambda found: f"{found['before']}{redact.MASK}", value))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return _arguments([_shown(item) for item in value])
    if isinstance(value, dict):
        return {str(name): masked((str(name),), item) for name, item in value.items()}
    return value


def _arguments(items: list[Any]) -> list[Any]:
    """Of a command line: what follows an option with a secret's name."""
    secret = False
    shown = []
    for item in items:
        shown.append(redact.MASK if secret else item)
        secret = isinstance(item, str) and item.startswith("-") and redact.is_secret_name(item.lstrip("-"))
    return shown
