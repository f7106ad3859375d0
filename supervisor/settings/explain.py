"""Pydantic's errors in the operator's words: place, dotted key, what was expected, what was found, what was meant."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from supervisor.settings.problems import Place, Problem, describe, dotted, printable
from supervisor.settings.schema import Section, Settings
from supervisor.settings.yamlio import Document, KeyPath, scalar

_EXPECTED = {
    "string_type": "text",
    "string_unicode": "text that is valid Unicode",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section (KEY: VALUE)",
    "model_type": "a section (KEY: VALUE)",
    "is_instance_of": "a path",
    "literal_error": "one of {expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} entry",
}
_NUMBER_TYPES = {"int_type", "float_type"}


def explain(error: ValidationError, document: Document) -> Iterator[Problem]:
    """A problem for each of pydantic's; `document` knows where everything was written."""
    for details in error.errors(include_url=False):
        yield _problem(details, document)


def _problem(details: ErrorDetails, document: Document) -> Problem:
    path = details["loc"]
    match details["type"]:
        case "extra_forbidden":
            return Problem(_place(document.keys, path, document), dotted(path), _unknown(path))
        case "missing":
            return Problem(_place(document.keys, path[:-1], document), dotted(path), "required, but not set")
    if path and path[-1] == "[key]":
        path = path[:-1]
        return Problem(_place(document.keys, path, document), dotted(path), _wrong(details, details["input"]))
    found = _written(document, path, details["input"])
    return Problem(_place(document.values, path, document), dotted(path), _wrong(details, found))


def _place(places: dict[KeyPath, Place], path: KeyPath, document: Document) -> Place:
    """Where `path` was written, or the nearest thing around it."""
    for length in range(len(path), 0, -1):
        found = places.get(path[:length]) or document.keys.get(path[:length])
        if found is not None:
            return found
    return document.values.get((), Place(document.file, 1, 1))


def _written(document: Document, path: KeyPath, otherwise: Any) -> Any:
    """What the operator wrote there: neither what a unit has made of it, nor a secret it stands for."""
    if path in document.written:
        return document.written[path]
    found = document.data
    for part in path:
        try:
            found = found[part]
        except (KeyError, IndexError, TypeError):
            return otherwise  # a default, or what another key has led to
    return found


def _wrong(details: ErrorDetails, value: Any) -> str:
    """`expected X, found Y`, and how to mend it when that is a matter of quotes."""
    kind = details["type"]
    template = _EXPECTED.get(kind)
    if template is not None:
        expected = "expected " + template.format(**{k: _plain(v) for k, v in details.get("ctx", {}).items()})
    else:
        expected = details["msg"].removeprefix("Value error, ")
    hint = details.get("ctx", {}).get("hint", "")
    if kind == "unit":
        return f"{expected}, found {describe(value)}{f' ({hint})' if hint else ''}"
    if isinstance(value, str) and type(details["input"]) in {
        int,
        float,
    }:  # read, by its unit, but out of range
        return f"{expected}, found {describe(value)} ({_plain(details['input'])})"
    return f"{expected}, found {describe(value)}{_mend(kind, value, expected)}"


def _plain(value: Any) -> Any:
    """604800, not 604800.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mend(kind: str, value: Any, expected: str) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return " (put it in quotes)"
    if kind in _NUMBER_TYPES and isinstance(value, str) and isinstance(scalar(value), int | float):
        return " (take the quotes away)"
    if kind == "literal_error" and isinstance(value, str):
        near = get_close_matches(value, re.findall(r"'([^']*)'", expected), n=1)
        return f" (did you mean '{near[0]}'?)" if near else ""
    return ""


def _unknown(path: KeyPath) -> str:
    """Misspelt, in the wrong section, or unheard of."""
    key = str(path[-1])
    section = _section(path[:-1])
    known = list(section.model_fields) if section else []
    if near := get_close_matches(key.lower().replace("-", "_"), known, n=1):
        return f"unknown key (did you mean '{near[0]}'?)"
    if elsewhere := [name for name in _all_keys() if name.endswith(f".{key}")]:
        return f"unknown key here (did you mean '{elsewhere[0]}'?)"
    return f"unknown key '{printable(key)}'; expected one of {', '.join(known)}"


def _section(path: KeyPath) -> type[Section] | None:
    """The model class that validates what is at `path`."""
    annotation: Any = Settings
    for part in path:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif _is_section(annotation) and part in annotation.model_fields:
            annotation = _present(annotation.model_fields[part].annotation)
        else:
            return None
    return annotation if _is_section(annotation) else None


def _present(annotation: Any) -> Any:
    """The section in `Section | None`; anything else as it is."""
    if get_origin(annotation) not in {Union, UnionType}:
        return annotation
    return next((part for part in get_args(annotation) if _is_section(part)), annotation)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _all_keys(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """Every dotted key there is, NAME standing for what the operator names."""
    for name, field in section.model_fields.items():
        annotation = _present(field.annotation)
        key = f"{prefix}{name}"
        yield key
        if get_origin(annotation) is dict:
            annotation, key = get_args(annotation)[1], f"{key}.NAME"
        if _is_section(annotation):
            yield from _all_keys(annotation, f"{key}.")
