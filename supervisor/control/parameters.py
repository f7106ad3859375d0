"""Query parameters of the control API: read strictly, so that a mistyped one is refused and never overlooked."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from supervisor.errors import BadRequest

USAGE = 2  # the exit code of a command that was called wrongly
_TRUE, _FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
_DIGITS = re.compile(r"[0-9]{1,15}\Z")
MOST_NUMBER = 10**15 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """``read`` raises ValueError with what was expected; ``schema`` is said in the OpenAPI document."""

    name: str
    summary: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    default: Any = None


def flag(name: str, summary: str) -> Parameter:
    schema = {"type": "string", "enum": sorted(_TRUE | _FALSE)}
    return Parameter(name, summary, _flag, schema, default=False)


def _flag(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise ValueError("expected 1 or 0")
    return text in _TRUE


def count(name: str, summary: str, *, default: int, most: int) -> Parameter:
    def read(text: str) -> int:
        if not _DIGITS.match(text) or int(text) > most:
            raise ValueError(f"expected a number from 0 to {most}")
        return int(text)

    return Parameter(
        name,
        summary,
        read,
        {"type": "integer", "minimum": 0, "maximum": most, "default": default},
        default=default,
    )


def number(name: str, summary: str) -> Parameter:
    """None where it is not given."""

    def read(text: str) -> int:
        if not _DIGITS.match(text):
            raise ValueError("expected a number")
        return int(text)

    return Parameter(name, summary, read, {"type": "integer", "minimum": 0, "maximum": MOST_NUMBER})


def choice(name: str, summary: str, *values: str) -> Parameter:
    """The first one is the default."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"expected one of: {', '.join(values)}")
        return text

    return Parameter(
        name,
        summary,
        read,
        {"type": "string", "enum": list(values), "default": values[0]},
        default=values[0],
    )


def text(name: str, summary: str, *, required: bool = False) -> Parameter:
    return Parameter(name, summary, _text, {"type": "string", "minLength": 1}, required=required)


def _text(value: str) -> str:
    if not value:
        raise ValueError("expected a text")
    return value


def read(parameters: tuple[Parameter, ...], given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Every parameter's value.

    Raises:
        BadRequest: one is unknown, given twice, missing, or not what was expected.
    """
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    for name, value in given:
        if name not in known:
            raise _refused(f"there is no parameter {name!r} here", f"there are: {', '.join(known) or 'none'}")
        if name in found:
            raise _refused(f"the parameter {name} is given twice", "")
        try:
            found[name] = known[name].read(value)
        except ValueError as exc:
            raise _refused(f"the parameter {name} is {value!r}", str(exc)) from None
    for name, parameter in known.items():
        if name not in found:
            if parameter.required:
                raise _refused(f"the parameter {name} is missing", parameter.summary)
            found[name] = parameter.default
    return found


def _refused(message: str, hint: str) -> BadRequest:
    error = BadRequest(message, hint=hint)
    error.exit_code = USAGE
    return error
