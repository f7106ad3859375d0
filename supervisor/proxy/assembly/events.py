"""From bytes of a stream to the JSON texts of its events, and the few things done to JSON text.

Text is carried over raw: llama-server escapes character by character, and an event ends with a whole
character, so what stands between the quotes can be joined without being decoded. What does not look
as this version writes it is never guessed at: Unknown.
"""

import json
import re
from typing import Any

from supervisor.proxy.assembly.faults import Incomplete, Unknown, Unsure

STRING = r'([^"\\]*(?:\\.[^"\\]*)*)'  # what stands between the quotes of a JSON string
DONE = "[DONE]"
_PROGRESS = '"prompt_progress":{'  # no text reads so: its quotes would be escaped

_NOTHING_SAID = re.compile(r'"content":(?:null|"")|"text":""')
_TIMINGS = re.compile(r',"timings":(\{[^{}]*\})\}\Z')
_PREDICTED = re.compile(r'"predicted_n":(\d+)')
_PARSER_LOST = "Invalid diff"  # raised on the way to a stream only (common/chat.cpp, compute_diffs)


def payloads(data: bytes) -> list[str]:
    """The data of every event, in order; comments (pings) and event names are left out.

    So is ``null``, which marks that the second and further prompts of a request have been begun.

    Raises:
        Incomplete: nothing came, the last event is cut, or it is not text.
    """
    try:
        blocks = data.decode().split("\n\n")
    except UnicodeDecodeError as error:
        raise Incomplete("the stream is cut within a character") from error
    if blocks.pop():
        raise Incomplete("the last event is cut")
    found = []
    for block in blocks:
        if block.startswith("data: "):
            found.append(block[6:])
        elif (at := block.find("\ndata: ")) >= 0:
            found.append(block[at + 7 :])
        elif not block.startswith(":"):
            raise Unknown("an event without data")
    if "null" in found:
        found = [payload for payload in found if payload != "null"]
    first = next((n for n, payload in enumerate(found) if _PROGRESS not in payload), len(found))
    if not all(_NOTHING_SAID.search(payload) for payload in found[:first]):
        raise Unsure("text came before the first token")
    del found[:first]
    if not found:
        raise Incomplete("no event came")
    return found


def error_of(payload: str) -> tuple[int, bytes] | None:
    """Status and body of an error event, as llama-server answers them outside a stream; None if it is none.

    Raises:
        Unsure: an error that only streaming has.
    """
    if payload.startswith('{"error":'):
        body = payload
    elif payload.startswith('{"code":'):  # the Anthropic form carries it unwrapped
        body = '{"error":' + payload + "}"
    else:
        return None
    error = loads(body)["error"]
    if str(error.get("message", "")).startswith(_PARSER_LOST):
        raise Unsure("the parser of streams lost its thread")
    code = error.get("code")
    known = isinstance(code, int) and 400 <= code <= 599
    return (code if known else 500), body.encode()


def loads(payload: str) -> dict[str, Any]:
    """An event decoded. What holds a number with a fraction is not to be written again: dumps refuses it.

    Raises:
        Unknown: not a JSON object.
    """
    try:
        value = _decode(payload)
    except (ValueError, RecursionError) as error:
        raise Unknown("an event that is not JSON") from error
    if not isinstance(value, dict):
        raise Unknown("an event that is not an object")
    return value


class _Fraction:
    """A number that two writers might print differently; those needed are carried over raw."""

    __slots__ = ()

    def __init__(self, digits: str) -> None:
        pass


# Made once: `json.loads` and `json.dumps` make new ones at every call that is not plain.
_decode = json.JSONDecoder(parse_float=_Fraction).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: object) -> str:
    """JSON as llama-server writes it: no spaces, order kept, only what must be escaped is.

    Raises:
        TypeError: it holds a number with a fraction.
    """
    return _encode(value)


def raw(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return dumps(text)[1:-1]


def timings_of(payload: str) -> str:
    """The timings at an event's end as raw JSON, or nothing.

    Raises:
        Unknown: they are elsewhere.
    """
    if found := _TIMINGS.search(payload):
        return found.group(1)
    if '"timings":' in payload:
        raise Unknown("timings in an unknown place")
    return ""


def predicted_n(payload: str) -> int:
    """How many tokens had been made when this event was, by its timings; -1 without."""
    found = _PREDICTED.search(payload)
    return int(found.group(1)) if found else -1


def expect(fields: dict[str, Any], known: frozenset[str]) -> None:
    """Raises Unknown if there is a field of which it is not known where the unstreamed answer has it."""
    if unknown := fields.keys() - known:
        raise Unknown(f"unknown field {min(unknown)!r}")
