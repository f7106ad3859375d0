"""YAML into plain values with the place of every key and value; standard library and PyYAML only.

Built on PyYAML's events, not on its loader, because the loader keeps the last of two equal keys, expands aliases
(the "billion laughs" bomb), builds objects from tags, and reads YAML 1.1, where `no` is false, `012` is ten and
`12:30` is 750. Here only these plain scalars are other than text: null, true, false and decimal numbers (the YAML 1.2
core schema less octal and hexadecimal). Work is bounded: bytes, depth and values have limits.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from supervisor.settings.problems import Place, Problem, SettingsError, describe, dotted, printable
from supervisor.types import MIB

MAX_BYTES = 1 * MIB
MAX_DEPTH = 20  # the schema needs five
MAX_VALUES = 20_000  # of keys and values; a thousand models need fewer

KeyPath = tuple[str | int, ...]

# libyaml is some ten times faster; the events are the same.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})?(\.[0-9]{0,17})?([eE][-+]?[0-9]{1,3})?")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# What YAML forbids unescaped (1.2 section 5.1), checked here for a line and column in place of an offset.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufeff\uff00-\ufffd\U00010000-\U0010ffff]")
# Words that libyaml and PyYAML's own parser share.
_AT_THE_BEGINNING = frozenset({"while scanning a quoted scalar", "while scanning a simple key"})
_TWO_COLONS = "mapping values are not allowed "
_NO_SPACE = re.compile(r"\s*[A-Za-z0-9_-]+:(?=[^\s:])")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Document:
    """`data` as the file says it; where each key and each value was written; what is wrong though it parses.

    ``written``: the text of values that `secrets` has replaced; ``notices``: what is right, but worth a word.
    """

    file: str
    data: Any = None
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    written: dict[KeyPath, str] = field(default_factory=dict)
    notices: list[Problem] = field(default_factory=list)


def parse(raw: bytes, file: str) -> Document:
    """The document in `raw`; raises SettingsError where it cannot be read at all. `file` is for messages."""
    text = _decode(raw, file)
    document = Document(file)
    try:
        _Reader(document, text).read()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # RecursionError and ValueError: PyYAML on hostile input; a traceback would be a defect all the same.
        raise _refusal(Place(file), f"not valid YAML: {printable(str(error))}") from None
    return document


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and any(char.isdigit() for char in re.split("[eE]", text)[0]):
        return float(text)
    return text


class _Reader:
    """Consumes the events once, front to back; recursion is as deep as MAX_DEPTH at most."""

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._events: Iterator[Event] = yaml.parse(text, Loader=_Loader)
        self._count = 0

    def read(self) -> None:
        documents = 0
        for event in self._events:
            if not isinstance(event, DocumentStartEvent):
                continue
            documents += 1
            if documents > 1:
                raise _refusal(self._place(event), "a second document (---); expected one")
            self._document.data = self._value(next(self._events), ())

    def _value(self, event: Event, path: KeyPath) -> Any:
        self._charge(event, len(path))
        self._document.values[path] = self._place(event)
        self._refuse_cleverness(event, path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, path) if isinstance(event, ScalarEvent) else None

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._key(event, path)
            place = self._place(event)
            if key in found:
                first = self._document.keys[*path, key].line
                self._problem(place, (*path, key), f"duplicate key; it is set already in line {first}")
                self._skip(len(path) + 1)
                continue
            self._document.keys[*path, key] = place
            found[key] = self._value(next(self._events), (*path, key))
        return found

    def _sequence(self, path: KeyPath) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _key(self, event: Event, path: KeyPath) -> str:
        """A key is its text: a model may be called 3 or no."""
        self._count += 1
        if isinstance(event, ScalarEvent):
            self._check_text(event, path)
            return event.value
        raise _refusal(self._place(event), "expected a plain key before the colon")

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> Any:
        self._check_text(event, path)
        plain = event.implicit[0] and not event.style  # unquoted and untagged
        return scalar(event.value) if plain else event.value

    def _skip(self, depth: int) -> None:
        """Read a value and forget it: of two equal keys the first stays, the second is an error already."""
        outside = depth
        for event in self._events:
            self._charge(event, depth)
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth == outside:
                return

    def _charge(self, event: Event, depth: int) -> None:
        """Bound the work. Depth matters most: PyYAML's scanners take quadratic time in it."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise _refusal(
                self._place(event), f"more than {MAX_VALUES} keys and values; this is no llmsup configuration"
            )
        if depth > MAX_DEPTH:
            raise _refusal(
                self._place(event), f"nested deeper than {MAX_DEPTH} levels; this is no llmsup configuration"
            )

    def _check_text(self, event: ScalarEvent, path: KeyPath) -> None:
        if _SURROGATE.search(event.value):
            self._problem(self._place(event), path, f"half a surrogate pair in {describe(event.value)}")

    def _refuse_cleverness(self, event: Event, path: KeyPath) -> None:
        place = self._place(event)
        if isinstance(event, AliasEvent):
            self._problem(place, path, f"the alias *{printable(str(event.anchor))}: write the value out")
        elif isinstance(event, NodeEvent) and event.anchor is not None:
            self._problem(
                place, path, f"the anchor &{printable(event.anchor)}: anchors and aliases are not supported"
            )
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            self._problem(place, path, f"the tag {printable(event.tag)}: tags are not supported")

    def _problem(self, place: Place, path: KeyPath, message: str) -> None:
        self._document.problems.append(Problem(place, dotted(path), message))

    def _place(self, event: Event) -> Place:
        mark = event.start_mark
        if mark is None:  # PyYAML's types allow it; its parsers always set it
            return Place(self._document.file)
        return Place(self._document.file, mark.line + 1, mark.column + 1)


def _decode(raw: bytes, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise _refusal(Place(file), f"larger than {MAX_BYTES // MIB} MiB; this is no llmsup configuration")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        raise _refusal(_at(before, file), f"not UTF-8 text: the byte 0x{raw[error.start]:02x}") from None
    if bad := _FORBIDDEN.search(text):
        raise _refusal(_at(text[: bad.start()], file), f"the character {bad[0]!a} is not allowed in YAML")
    return text


def _at(before: str, file: str) -> Place:
    """The place right after `before`."""
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> SettingsError:
    """Where a person would look: an open quote and a forgotten colon are noticed lines later by the parser."""
    context = error.context or ""
    began = error.context_mark
    mark = began if context in _AT_THE_BEGINNING and began is not None else error.problem_mark or began
    if mark is None:
        return _refusal(Place(file), f"not valid YAML: {printable(str(error.problem))}")
    place = Place(file, mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if line[mark.column : mark.column + 1] == "\t" or "\t" in line[: len(line) - len(line.lstrip())]:
        return _refusal(place, "a tab; indent with spaces")
    if (found := _missing_space(error, lines, mark.line)) is not None:
        return _refusal(Place(file, *found), "a space is missing behind the colon")
    if context and began is not None and began.line < mark.line:
        context += f", begun in line {began.line + 1}"
    return _refusal(place, f"not valid YAML: {error.problem}{f' {context}' if context else ''}")


def _missing_space(error: yaml.MarkedYAMLError, lines: list[str], at: int) -> tuple[int, int] | None:
    """Line and column behind the colon of `key:value`, which YAML reads as text that ends in the next line."""
    if str(error.problem).startswith(_TWO_COLONS):
        at -= 1
    elif "simple key" not in (error.context or ""):
        return None
    found = _NO_SPACE.match(lines[at]) if 0 <= at < len(lines) else None
    return (at + 1, found.end() + 1) if found is not None else None


def _refusal(place: Place, message: str) -> SettingsError:
    return SettingsError(place.file, [Problem(place, "", message)])
