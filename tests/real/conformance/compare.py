"""What of an answer counts: everything but what differs from one asking to the next.

Bodies are compared as text, so that the order of keys and the spelling of numbers and escapes count too.
Identifiers become ordinals in the order in which they come up: two that were equal must stay equal.
"""

import re
from dataclasses import dataclass
from typing import Any

from tests.support import rawhttp

_NUMBER = r"(?:-?[0-9][0-9.eE+-]*|null)"
_VOLATILE = (
    re.compile(rf'("(?:created|created_at|completed_at|id_slot|time_ms)":){_NUMBER}'),
    re.compile(rf'("(?:prompt|predicted)_(?:ms|per_token_ms|per_second)":){_NUMBER}'),
)
_ID = re.compile(r'"(chatcmpl-|cmpl-|resp_|msg_|rs_|fc_|call_)?([0-9A-Za-z]{32})"')

# Fields that belong to one connection, frame the body or are the proxy's own to say (see `differences.HEADERS`).
_NOT_COMPARED = re.compile(
    r"connection|keep-alive|content-length|transfer-encoding|date|server|retry-after(-ms)?|x-request-id"
    r"|cache-control|x-content-type-options|(x-llmsup|access-control|x-ratelimit|ratelimit).*"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer as it is compared."""

    status: int
    fields: list[tuple[str, str]]
    framing: str
    complete: bool
    body: str | list[str]  # a stream is the list of its events

    def __str__(self) -> str:
        body = "\n".join(self.body) if isinstance(self.body, list) else self.body
        return f"{self.status} {self.fields} {self.framing}\n{body}"


def shown(answer: rawhttp.Response) -> Shown:
    fields = [(name.lower(), value) for name, value in answer.headers]
    is_stream = (answer.header("content-type") or "").startswith("text/event-stream")
    text = answer.body.decode("utf-8", "surrogateescape")
    return Shown(
        status=answer.status,
        fields=sorted(field for field in fields if not _NOT_COMPARED.fullmatch(field[0])),
        framing=_framing(dict(fields)),
        complete=answer.complete,
        body=normalised("\n\n".join(events(text))).split("\n\n") if is_stream else normalised(text),
    )


def events(text: str) -> list[str]:
    """The events of a stream; comments are none. What follows the last empty line stays, as what it is."""
    lines = (block.split("\n") for block in text.split("\n\n"))
    kept = ("\n".join(line for line in block if not line.startswith(":")) for block in lines)
    return [block for block in kept if block]


def normalised(text: str) -> str:
    for pattern in _VOLATILE:
        text = pattern.sub(r"\1~", text)
    seen: dict[str, int] = {}
    return _ID.sub(lambda found: f'"{found[1] or ""}#{seen.setdefault(found[0], len(seen))}"', text)


def _framing(fields: dict[str, Any]) -> str:
    names = [name for name in ("content-length", "transfer-encoding") if name in fields]
    return " and ".join(names) or "until close"
