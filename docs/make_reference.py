"""Fills in those parts of reference.md that the program itself knows: `make docs`. A test compares.

A part stands between ``<!-- made: NAME -->`` and ``<!-- end -->``; what is around it is written by hand.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from supervisor.cli.main import VERBS, root
from supervisor.control.operations import OPERATIONS, Operation
from supervisor.control.parameters import Parameter
from supervisor.observe.metrics import FAMILIES
from supervisor.proc.remedies import REMEDIES
from supervisor.settings import jsonschema
from supervisor.settings.schema import Section, Settings
from supervisor.settings.show import flow

REFERENCE = Path(__file__).with_name("reference.md")
_PART = re.compile(r"(<!-- made: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_UNITS = {
    "_ms": "a duration: milliseconds, or `250ms`, `2s`",
    "_s": "a duration: seconds, or `90s`, `1h30m`",
    "_mb": "a size: MiB, or `512MiB`, `2GiB`",
}


def filled(text: str) -> str:
    """``text`` with every part made anew. Raises KeyError: there is no such part."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


# ---- configuration


def keys() -> str:
    """Every key that is no section, section by section, in the order of the classes."""
    made = jsonschema.schema()
    nodes = dict(_leaves(made, made, ""))
    sections: dict[str, list[tuple[str, ...]]] = {}
    for key, default in defaults().items():
        section = key.partition(".")[0] if "." in key else ""
        row = (f"`{key}`", _takes(key, nodes[key]), default, nodes[key].get("description", ""))
        sections.setdefault(section, []).append(row)
    parts = []
    for section, rows in sections.items():
        title = f"### `{section}:`" if section else "### At the top"
        parts.append(f"{title}\n\n{table(('key', 'takes', 'default', 'meaning'), iter(rows))}")
    return "\n".join(parts)


def defaults() -> dict[str, str]:
    """Every key that is no section, dotted, with its default in YAML."""
    return dict(_defaults(Settings, ""))


def _defaults(section: type[Section], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        key = f"{prefix}{name}"
        if get_origin(inner) is dict:
            inner, key = get_args(inner)[1], f"{key}.NAME"
        below = [
            one for one in (inner, *get_args(inner)) if isinstance(one, type) and issubclass(one, Section)
        ]
        if below:
            yield from _defaults(below[0], f"{key}.")
        elif field.is_required():
            yield key, "required"
        else:
            yield key, _written(field.get_default(call_default_factory=True))


def _written(value: Any) -> str:
    """As it would stand in the YAML; nothing for a section of the operator's own names."""
    if value == {}:
        return ""
    if isinstance(value, list):  # of networks, for one
        value = [one if isinstance(one, int) else str(one) for one in value]
    return f"`{flow(value)}`"


def _leaves(made: dict[str, Any], node: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys that are no section. A key like ``env`` whose own keys are the operator's is one, as env.NAME."""
    for name, one in node.get("properties", {}).items():
        key, inner = f"{prefix}{name}", _section_of(one, made)
        if inner is not None:
            yield from _leaves(made, inner, f"{key}.")
        elif (named := one.get("additionalProperties")) or "patternProperties" in one:
            named = named if isinstance(named, dict) else next(iter(one["patternProperties"].values()))
            below = _section_of(named, made)
            if below is None:
                yield f"{key}.NAME", one
            else:
                yield from _leaves(made, below, f"{key}.NAME.")
        else:
            yield key, one


def _section_of(node: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any] | None:
    for one in (node, *node.get("anyOf", ()), *node.get("allOf", ())):
        if "$ref" in one:
            found: dict[str, Any] = made["$defs"][one["$ref"].rpartition("/")[2]]
            return found
    return None


def _takes(key: str, node: Mapping[str, Any]) -> str:
    """What may be written, in words."""
    forms = node.get("anyOf", [node])
    nothing = ", or null" if any(one.get("type") == "null" for one in forms) else ""
    unit = next((words for ending, words in _UNITS.items() if key.endswith(ending)), None)
    for one in forms:
        kind = one.get("type")
        if unit is not None and kind in {"integer", "number"}:
            return unit + nothing
        if kind in {"integer", "number"}:
            return _number(one) + nothing
        if kind == "boolean":
            return "true or false"
        if "enum" in one:
            return " or ".join(f"`{value}`" for value in one["enum"]) + nothing
        if kind == "array":
            return "a list" + nothing
    return "text" + nothing


def _number(node: Mapping[str, Any]) -> str:
    kind = "a whole number" if node["type"] == "integer" else "a number"
    low, above, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    least = f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    most = f"to {high}" if high is not None else ""
    return " ".join(filter(None, (kind, least, most)))


# ---- the command


def commands() -> str:
    parts = []
    for verb in VERBS:
        command = root.get_command(click.Context(root), verb)
        assert command is not None, verb  # noqa: S101  VERBS is what it is looked up in
        parts += list(_command(f"llmsup {verb}", command))
    return "\n".join(parts)


def _command(name: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for sub in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), sub)
            assert found is not None, sub  # noqa: S101  it is in the list
            yield from _command(f"{name} {sub}", found)
        return
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    words = (command.help or "").partition("\b")[0].strip()
    told = " ".join(words.partition("\n\n")[0].split())
    yield f"### `{name}`\n\n`{name}{f' {usage}' if usage else ''}`: {told}\n"
    rows = [
        _option(context, one) for one in command.params if isinstance(one, click.Option) and not one.hidden
    ]
    if rows:
        yield table(("option", "does"), iter(rows))


def _option(context: click.Context, option: click.Option) -> tuple[str, str]:
    spelled = ", ".join((*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    told = " ".join((option.help or "").split())
    if option.show_default and option.default is not None:
        value_of = option.default
        told += f" Default: {value_of:g}." if isinstance(value_of, float) else f" Default: {value_of}."
    return f"`{spelled}{value}`", told


# ---- deaths and metrics


def causes() -> str:
    rows = ((f"`{name}`", one.meaning, one.todo.replace("{model}", "NAME")) for name, one in REMEDIES.items())
    return table(("cause", "means", "what to do"), rows)


def metrics() -> str:
    rows = (
        (
            f"`{family.name}`",
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels),
            family.help,
        )
        for family in FAMILIES.values()
    )
    return table(("metric", "kind", "labels", "what"), rows)


# ---- the control API


def control() -> str:
    rows = ((f"`{one.method} {one.path}`", _parameters(one), one.summary) for one in OPERATIONS)
    return table(("route", "parameters", "does"), rows)


def _parameters(operation: Operation) -> str:
    return "; ".join(map(_parameter, operation.parameters))


def _parameter(one: Parameter) -> str:
    choices = one.schema.get("enum", ()) if one.default is not False else ()  # flags explain themselves
    of = f" ({', '.join(choices)})" if choices else " (required)" if one.required else ""
    return f"`{one.name}`{of}: {one.summary}"


PARTS: Mapping[str, Callable[[], str]] = {
    "keys": keys,
    "commands": commands,
    "causes": causes,
    "metrics": metrics,
    "control": control,
}


def main() -> int:
    """Write it; with --check say only whether it would change."""
    before = REFERENCE.read_text("utf-8")
    after = filled(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    REFERENCE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
