"""Server-sent events as llama-server writes them: blocks ended by an empty line, one line of JSON in each."""

import json
from dataclasses import dataclass

from supervisor.proxy.continuation.asked import Json

BOUNDARY = b"\n\n"
DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    """``data`` is None in a comment (a ping) and at `[DONE]`, which ``done`` tells."""

    raw: bytes
    name: str = ""
    data: Json | None = None
    done: bool = False


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole blocks, each with its empty line, and what remains."""
    *blocks, rest = data.split(BOUNDARY)
    return [block + BOUNDARY for block in blocks], rest


def read(block: bytes) -> Event:
    """Raises one of MALFORMED where this is not an event of llama-server's."""
    name = ""
    payload: bytes | None = None
    for line in block.split(b"\n"):
        if not line or line.startswith(b":"):
            continue
        field, _, value = line.partition(b": ")
        if field == b"event" and not name:
            name = value.decode()
        elif field == b"data" and payload is None:
            payload = value
        else:
            raise ValueError("a line that belongs to no event")
    if payload is None:
        if name:
            raise ValueError("an event without data")
        return Event(block)
    if payload == DONE:
        return Event(block, name, None, done=True)
    data = json.loads(payload)
    if not isinstance(data, dict):
        raise TypeError("an event that is no object")
    return Event(block, name, data)


def write(name: str, data: Json) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text) if name else b"data: %b\n\n" % text
