"""Anthropic's messages: content blocks are filled by deltas. Pure.

These events carry no count of tokens. An answer that the token limit ended is therefore believed only if
there were as many deltas as tokens (see chat.py for what could be missing).
"""

import json
import re
from typing import Any

from supervisor.proxy.assembly.events import STRING, dumps, expect, loads, raw
from supervisor.proxy.assembly.faults import Incomplete, Unknown, Unsure

_TEXT = re.compile(
    r'\{"type":"content_block_delta","index":\d+,"delta":\{"type":"text_delta","text":"' + STRING + r'"\}\}\Z'
)
_START = frozenset(["id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage"])
_USAGE = frozenset(("cache_read_input_tokens", "input_tokens", "output_tokens"))


class _Message:
    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.tools: dict[int, dict[str, str]] = {}  # by the block's index: id and name
        self.arguments: dict[int, list[str]] = {}
        self.deltas = 0
        self.end: dict[str, Any] = {}
        self.stopped = False

    def take(self, payload: str) -> None:
        if found := _TEXT.match(payload):
            self.text.append(found.group(1))
            self.deltas += 1
            return
        event = loads(payload)
        match event["type"]:
            case "message_start":
                self.start = event["message"]
            case "content_block_start":
                self._block(event["index"], event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "message_delta":
                self.end = event
            case "message_stop":
                self.stopped = True
            case "content_block_stop":
                pass
            case other:
                raise Unknown(f"unknown event {other!r}")

    def _block(self, index: int, block: dict[str, Any]) -> None:
        if block["type"] == "tool_use":
            self.tools[index] = {"id": block["id"], "name": block["name"]}
            self.arguments.setdefault(index, [])

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        self.deltas += 1
        match delta["type"]:
            case "text_delta":
                self.text.append(raw(delta["text"]))
            case "thinking_delta":
                self.thinking.append(raw(delta["thinking"]))
            case "input_json_delta":
                self.arguments[index].append(delta["partial_json"])
            case "signature_delta":
                self.deltas -= 1  # not of a token; always empty, as in the unstreamed answer
            case other:
                raise Unknown(f"unknown delta {other!r}")

    def blocks(self) -> list[str]:
        """Thinking, text, tools: the unstreamed order."""
        found = []
        if thinking := "".join(self.thinking):
            found.append(f'{{"type":"thinking","thinking":"{thinking}","signature":""}}')
        if text := "".join(self.text):
            found.append(f'{{"type":"text","text":"{text}"}}')
        for index, tool in sorted(self.tools.items()):
            head = f'"type":"tool_use","id":{dumps(tool["id"])},"name":{dumps(tool["name"])}'
            found.append(f'{{{head},"input":{_normalised("".join(self.arguments[index]))}}}')
        return found

    def doubt(self) -> str | None:
        """Why something may be missing, if so."""
        made = self.end["usage"]["output_tokens"]
        if self.end["delta"]["stop_reason"] == "max_tokens" and self.deltas != made:
            return "fewer deltas than tokens before the limit"
        if made > 1 and not (self.text or self.thinking or self.tools):
            return "the parser found no message, so the unparsed text would be the answer"
        return None


def assemble(events: list[str], parsed: dict[str, Any]) -> str:
    """The unstreamed answer's JSON.

    Raises:
        Incomplete: the stream did not come to its end.
        Unsure: something may be missing.
    """
    message = _Message()
    for payload in events:
        message.take(payload)
    if not message.stopped or not message.end:
        raise Incomplete("the message was not stopped")
    if not message.start:
        raise Unsure("the message never started: its first token was half a character, or there was none")
    start, end = message.start, message.end
    expect(start, _START)
    expect(start["usage"], _USAGE)
    usage = {**start["usage"], **end["usage"]}
    text = (
        f'{{"id":{dumps(start["id"])},"type":"message","role":"assistant",'
        f'"content":[{",".join(message.blocks())}],"model":{dumps(start["model"])},'
        f'"stop_reason":{dumps(end["delta"]["stop_reason"])},'
        f'"stop_sequence":{dumps(end["delta"]["stop_sequence"])},"usage":{dumps(usage)}}}'
    )
    if why := message.doubt():
        raise Unsure(why, text.encode())
    return text


def _normalised(arguments: str) -> str:
    """A tool call's arguments, parsed and written again as llama-server does; {} for what is no JSON.

    Raises:
        Unsure: a number with a fraction (its writer prints those in its own way), or too deep.
    """
    try:
        value = json.loads(arguments, parse_float=_refuse, parse_int=_small, parse_constant=_no_constant)
        text = dumps(value)
        text.encode()
    except RecursionError as error:
        raise Unsure("tool input too deep") from error
    except ValueError:  # not JSON, or half a surrogate pair
        return "{}"
    return text


def _refuse(number: str) -> float:
    raise Unsure("a number with a fraction in a tool's input")


def _small(number: str) -> int:
    value = int(number) if len(number) <= 20 else 1 << 64  # int() of very many digits raises
    if not -(1 << 63) <= value < 1 << 64:
        raise Unsure("a number beyond 64 bits in a tool's input")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(name)
