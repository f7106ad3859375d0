"""OpenAI's responses: the last event holds the whole response, in another order. Pure."""

import re
from typing import Any

from supervisor.proxy.assembly.events import dumps, expect, loads, predicted_n
from supervisor.proxy.assembly.faults import Incomplete, Unsure

_BRINGS = re.compile(
    r'\{"type":"response\.(?:output_text|reasoning_text|function_call_arguments)\.delta"|'
    r'\{"type":"response\.output_item\.added","item":\{"id":"fc_'
)
_COMPLETED = '{"type":"response.completed","response":'
_RESPONSE = frozenset(["id", "object", "created_at", "status", "model", "output", "usage"])
_LIMITS = ("max_output_tokens", "max_tokens", "max_completion_tokens", "n_predict")
_ITEMS = {  # the unstreamed order of each item's fields
    "reasoning": ("id", "summary", "type", "content", "encrypted_content", "status"),
    "message": ("content", "id", "role", "status", "type"),
    "function_call": ("id", "type", "status", "arguments", "call_id", "name"),
}


def assemble(events: list[str], parsed: dict[str, Any]) -> str:
    """The unstreamed answer's JSON.

    Raises:
        Incomplete: the stream did not come to its end.
        Unsure: something may be missing.
    """
    if not events[-1].startswith(_COMPLETED):
        raise Incomplete("the response was not completed")
    response = loads(events[-1])["response"]
    expect(response, _RESPONSE)
    answer = {
        "completed_at": response["created_at"],
        "created_at": response["created_at"],
        "id": response["id"],
        "model": response["model"],
        "object": response["object"],
        "output": [_item(item) for item in response["output"]],
        "status": response["status"],
        "usage": response["usage"],
    }
    text = dumps(answer)
    if why := _doubt(events, parsed, response):
        raise Unsure(why, text.encode())
    return text


def _item(item: dict[str, Any]) -> dict[str, Any]:
    order = _ITEMS.get(item["type"], ())
    expect(item, frozenset(order))
    whole = {"status": "completed", **item}  # a reasoning item has it unstreamed only
    return {name: whole[name] for name in order}


def _doubt(events: list[str], parsed: dict[str, Any], response: dict[str, Any]) -> str | None:
    """Why something may be missing, if so. A response does not say what ended it."""
    made = response["usage"]["output_tokens"]
    last = next((event for event in reversed(events) if _BRINGS.match(event)), "")
    limited = any(parsed.get(name) == made for name in _LIMITS)
    if made and limited and predicted_n(last) != made:
        return "the last token before the limit brought no text"
    if made > 1 and not response["output"]:
        return "the parser found no message, so the unparsed text would be the answer"
    return None
