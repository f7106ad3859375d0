"""The configuration as JSON Schema, for editors that complete, explain and check YAML while it is written.

It allows what `load` allows, but for what only `load` can know (whether a name is a model's, which keys go together).
What a key means is said once, in the comments of config/llmsup.yaml, which is part of the package; it is found there.
`config/llmsup.schema.json` is this, committed; a test compares.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisor.settings import yamlio
from supervisor.settings.schema import Settings
from supervisor.settings.yamlio import KeyPath

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# In an installed package, and in the source tree.
_EXAMPLES = (Path(__file__).with_name("example.yaml"), Path(__file__).parents[2] / "config/llmsup.yaml")
_NAMED = (("models",), ("limits", "pools"))  # sections whose keys the operator names
_NAME = "NAME"


def text() -> str:
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> dict[str, Any]:
    made = Settings.model_json_schema()
    meanings = comments(_example())
    for path, node in list(_properties(made, made, ())):
        if (meaning := meanings.get(path) or meanings.get(path[-1:])) is not None:
            node.setdefault("description", meaning)
    for section in (made, *made["$defs"].values()):
        section.pop("title", None)
        section.pop("description", None)  # our docstrings are for those who read the source
        section["properties"] = {key: _nullable(one) for key, one in section.get("properties", {}).items()}
    return {"$schema": DIALECT, "title": "llmsup", **made}


def comments(example: str) -> Mapping[KeyPath, str]:
    """What the example says behind each key, NAME standing for the operator's own; and under the last part of the
    path alone, where the key is explained at its first mention only."""
    lines = example.splitlines()
    found: dict[KeyPath, str] = {}
    for path, place in yamlio.parse(example.encode(), "").keys.items():
        _, _, words = lines[(place.line or 1) - 1].partition(" # ")
        if words:
            found.setdefault(_general(path), words.strip())
            found.setdefault(path[-1:], words.strip())
    return found


def _example() -> str:
    return next((path.read_text("utf-8") for path in _EXAMPLES if path.is_file()), "")


def _general(path: KeyPath) -> KeyPath:
    for section in _NAMED:
        if path[: len(section)] == section and len(path) > len(section):
            return (*section, _NAME, *path[len(section) + 1 :])
    return path


def _properties(
    made: dict[str, Any], node: dict[str, Any], path: KeyPath
) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every key with its node, sections first, through references and alternatives."""
    if "$ref" in node:
        node = made["$defs"][node["$ref"].rpartition("/")[2]]
    for key, one in node.get("properties", {}).items():
        one.pop("title", None)
        yield (*path, key), one
        yield from _properties(made, one, (*path, key))
    for one in node.get("anyOf", ()):
        yield from _properties(made, one, path)
    if isinstance(inner := node.get("additionalProperties"), dict):
        yield from _properties(made, inner, (*path, _NAME))


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    """An empty section (`proxy:`) is null in YAML, and means its defaults."""
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {"anyOf": [{"$ref": node["$ref"]}, {"type": "null"}], **rest}
    return node
