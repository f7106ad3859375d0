"""The configuration in force as text: every key with its value and where that came from, and no secret.

What came from `${VAR}` or `file:` is shown as it was written. Masked besides: passwords in addresses, a child's
variables and arguments whose names speak of a secret, and whatever LLMSUP__MODELS__X__ENV__ has set.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from supervisor.settings.load import Loaded, leaves
from supervisor.settings.problems import dotted, without_password
from supervisor.settings.yamlio import KeyPath, scalar

MASK = "***"
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"--[a-z-]*(?:key|token|secret|passw)[a-z-]*(?P<value>=.*)?")
_UNQUOTED = re.compile(r"[A-Za-z0-9_./~$(][A-Za-z0-9_./~${}()@:+*-]*")


@dataclass(frozen=True, slots=True)
class Shown:
    """One key. ``value`` is fit for JSON and for anybody's eyes; ``source``: `FILE:LINE`, `env NAME`, `default`."""

    value: Any
    source: str
    secret: bool = False

    @property
    def text(self) -> str:
        """As it would be written in YAML."""
        return flow(self.value)


def shown(loaded: Loaded) -> Mapping[str, Shown]:
    """Every key in the order of the schema, dotted."""
    data = loaded.settings.model_dump()
    found = {}
    for path in leaves(data):
        key = dotted(path)
        value, secret = _visible(path, _at(data, path), key, loaded)
        found[key] = Shown(value, loaded.sources[key], secret)
    return found


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _visible(path: KeyPath, value: Any, key: str, loaded: Loaded) -> tuple[Any, bool]:
    """The value for anybody's eyes, and whether anything was taken out."""
    if key in loaded.written:
        return without_password(loaded.written[key]), True
    if path[0] == "models" and path[2:3] == ("env",) and len(path) == 4:
        hidden = loaded.sources[key].startswith("env ") or _SECRET_NAME.search(str(path[3])) is not None
        return (MASK, True) if hidden else (value, False)
    if path[0] == "models" and path[2:3] == ("args",):
        masked = list(_arguments(value))
        return masked, masked != value
    if isinstance(value, str):
        bare = without_password(value)
        return bare, bare != value
    return (str(value) if isinstance(value, Path) else value), False


def _arguments(args: list[str]) -> Iterator[str]:
    hide = False
    for argument in args:
        option = _SECRET_OPTION.fullmatch(argument)
        if hide:
            yield MASK
        elif option is not None and option["value"]:
            yield f"{argument.partition('=')[0]}={MASK}"
        else:
            yield argument
        hide = option is not None and not option["value"] and not hide


def flow(value: Any) -> str:
    """A value in YAML on one line: `[a, "1"]`, `{x: 2}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if isinstance(value, str):
        if value == MASK:
            return MASK
        plain = _UNQUOTED.fullmatch(value) and not value.endswith(":") and scalar(value) == value
        return value if plain else quoted(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, default=str)


def quoted(text: str, *, ascii_only: bool = False) -> str:
    """In YAML's double quotes, on one line. By YAML's own writer, which knows all its line breaks (JSON's does not)."""
    dumped: str = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=not ascii_only)
    return dumped.removesuffix("\n")
