"""What is wrong with a configuration: each mistake with its place, all of them in one error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.errors import ConfigError
from supervisor.printable import one_line

MAX_SHOWN = 50  # a file of another kind altogether must not fill the terminal
_VALUE_WIDTH = 60
_PASSWORD = re.compile(r"//[^/@\s]*@")  # redis://user:secret@host


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written. `file` is a path or `env NAME`; line and column count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    @property
    def source(self) -> str:
        """Without the column: what `config show` prints beside a value."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, at which dotted key ("" where there is none), and what."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}" if self.key else f"{self.place}: {self.message}"


class SettingsError(ConfigError):
    """Every problem found; the message is one line for one, else a count and a line for each."""

    def __init__(self, file: str, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(sorted(problems, key=_order))
        super().__init__(_summary(file, self.problems), hint=hint)


def _order(problem: Problem) -> tuple[bool, int, int, str, str]:
    """The file from top to bottom, then the environment."""
    place = problem.place
    return place.line is None, place.line or 0, place.column or 0, place.file, problem.key


def _summary(file: str, problems: Sequence[Problem]) -> str:
    if len(problems) == 1:
        return str(problems[0])
    lines = [f"{file}: {len(problems)} errors", *(str(problem) for problem in problems[:MAX_SHOWN])]
    if len(problems) > MAX_SHOWN:
        lines.append(f"... and {len(problems) - MAX_SHOWN} more")
    return "\n".join(lines)


def dotted(path: Sequence[str | int]) -> str:
    """`("models", "demo", "args", 0)` as `models.demo.args[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{printable(part)}" if text else printable(part)
    return text


def printable(text: str) -> str:
    """`text` on one short line whatever it holds: a terminal is not to be steered by a configuration file."""
    return one_line(text, _VALUE_WIDTH)


def describe(value: object) -> str:
    """A value in the words of an error message; passwords in URLs are not repeated."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{printable(without_password(value))}'"
    if isinstance(value, dict):
        return "a section (KEY: VALUE)"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the number {value}"


def without_password(text: str) -> str:
    """`redis://***@host` for `redis://user:secret@host`."""
    return _PASSWORD.sub("//***@", text)
