"""Sizes and durations as people write them (`2GiB`, `1h30m`), turned into the unit that the key's name says.

A number keeps meaning the key's own unit. A text must be exact in it: `1.5s` is 1500 for a `_ms` key, `250ms` is
nothing for a key of whole seconds, and nothing is ever rounded. Sizes are powers of 1024 only: who writes `GB` may
mean either, and a limit that is 7 % off is worse than a question.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from supervisor.types import GIB, KIB, MIB

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
SIZE_PATTERN = rf"^{_NUMBER} ?(?:B|KiB|MiB|GiB|TiB)$"
DURATION_PATTERN = rf"^(?=.)(?!.* $)(?:{_NUMBER} ?d ?)?(?:{_NUMBER} ?h ?)?(?:{_NUMBER} ?m ?)?(?:{_NUMBER} ?s ?)?(?:{_NUMBER} ?ms)?$"

_LONGEST = 64  # of a text that is looked at for what was meant

_SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024 * GIB}
_SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_LIKE_A_SIZE = re.compile(rf"({_NUMBER}) ?([kmgt]?i?b|[kmgt])", re.IGNORECASE)
_LIKE_A_DURATION = re.compile(
    rf"(?:{_NUMBER} ?(?:d|h|m|s|ms|min|mins|sec|secs|hr|hrs|days?|hours?|minutes?|seconds?|us|µs|ns) ?)+",
    re.IGNORECASE,
)
_PARTS = re.compile(rf"({_NUMBER}) ?(ms|[dhms])")
_LONG_NAMES = {
    "day": "d", "days": "d", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "min": "m", "mins": "m",
    "minute": "m", "minutes": "m", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """What a key counts in; as the metadata of an annotation it lets the key take a text with a unit.

    ``one``: how much of the base (bytes, seconds) the number 1 means.
    """

    name: str  # in messages: "a number of seconds or ..."
    one: Fraction
    example: str
    is_size: bool

    def parse(self, text: str, *, whole: bool) -> float | int:
        """The key's number.

        Raises:
            PydanticCustomError: with what was expected, and ``hint`` in its context: what may have been meant.
        """
        base = _size(text) if self.is_size else _duration(text)
        if base is None:
            raise _refusal(f"{self.name} or {self.example}", self._hint(text[:_LONGEST]))
        number = base / self.one
        if not whole:
            return float(number)
        if number.denominator != 1:
            raise _refusal(f"whole {self.name.removeprefix('a number of ')}", "")
        return int(number)

    def _hint(self, text: str) -> str:
        """What was meant, or mixed up; "" for text of any other kind."""
        if re.fullmatch(_NUMBER, text):
            return "take the quotes away"
        if text.startswith("-"):
            return "a minus makes no sense here" if self._hint(text[1:]) or self._reads(text[1:]) else ""
        if self.is_size:
            if found := _LIKE_A_SIZE.fullmatch(text):
                unit = (found[2][0].upper() + "iB").replace("BiB", "B")
                return f"did you mean {found[1]}{unit}?"
            return "this is a duration" if _LIKE_A_DURATION.fullmatch(text) else ""
        if _LIKE_A_DURATION.fullmatch(text):
            meant = re.sub(r"[a-z]+", lambda word: _LONG_NAMES.get(word[0], word[0]), text.lower())
            return f"did you mean {meant}?" if _duration(meant) is not None else ""
        return "this is a size" if _LIKE_A_SIZE.fullmatch(text) else ""

    def _reads(self, text: str) -> bool:
        return (_size(text) if self.is_size else _duration(text)) is not None

    # ---- what pydantic asks of an annotation's metadata

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole = source is int

        def read(value: Any) -> Any:
            return self.parse(value, whole=whole) if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        number = handler(schema)
        pattern = SIZE_PATTERN if self.is_size else DURATION_PATTERN
        return {"anyOf": [number, {"type": "string", "pattern": pattern}]}


def _refusal(expected: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("unit", "expected {expected}", {"expected": expected, "hint": hint})


def _size(text: str) -> Fraction | None:
    if not re.fullmatch(SIZE_PATTERN[1:-1], text):
        return None
    unit = text.lstrip("0123456789. ")
    return Fraction(text[: -len(unit)].strip()) * _SIZES[unit]


def _duration(text: str) -> Fraction | None:
    """Each unit at most once, the larger before the smaller."""
    if not re.fullmatch(DURATION_PATTERN[1:-1], text):
        return None
    return sum((Fraction(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text)), Fraction(0))


IN_SECONDS = Unit("a number of seconds", Fraction(1), "a duration such as 90s or 1h30m", is_size=False)
IN_MS = Unit("a number of milliseconds", Fraction(1, 1000), "a duration such as 250ms or 2s", is_size=False)
IN_MIB = Unit("a number of MiB", Fraction(MIB), "a size such as 512MiB or 2GiB", is_size=True)
IN_BYTES = Unit("a number of bytes", Fraction(1), "a size such as 64KiB or 32MiB", is_size=True)
