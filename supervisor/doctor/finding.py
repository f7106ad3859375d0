"""What a check says. Checks never raise: what cannot be found out is a finding too."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # works, but is worth knowing
    FAIL = "fail"  # keeps llmsup or a model from working


@dataclass(frozen=True, slots=True)
class Finding:
    """``title``: what was looked at; ``detail``: what was seen; ``remedy``: what to do, "" for nothing."""

    level: Level
    title: str
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(title: str, detail: str) -> Finding:
    return Finding(Level.OK, title, detail)


def warn(title: str, detail: str, remedy: str = "") -> Finding:
    return Finding(Level.WARN, title, detail, remedy)


def fail(title: str, detail: str, remedy: str = "") -> Finding:
    return Finding(Level.FAIL, title, detail, remedy)
