"""Files that never change while the daemon runs, answered from memory: the dashboard's. Pure.

A browser asks again each time, with the tag of what it has, and mostly gets a 304.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.proxy.decision import Answer
from supervisor.proxy.inflight import Exchange

_IF_NONE_MATCH = re.compile(rb"^if-none-match:(.*)\r$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class StaticFile:
    kind: bytes
    body: bytes
    etag: bytes  # with its quotes


@dataclass(frozen=True, slots=True)
class StaticFiles:
    """``files``: by what stands behind the root's slash; ``lines``: header lines that each of them has."""

    files: Mapping[bytes, StaticFile] = field(default_factory=dict)
    lines: bytes = b""

    def answer(self, exchange: Exchange, name: bytes) -> Answer | None:
        """None: there is no such file."""
        file = self.files.get(name)
        if file is None:
            return None
        exchange.lines += b"ETag: %b\r\n%b" % (file.etag, self.lines)
        known = _IF_NONE_MATCH.search(exchange.fields.passed)
        if known is not None and file.etag in known[1]:
            return Answer(304, b"")
        return Answer(200, file.body, file.kind)
