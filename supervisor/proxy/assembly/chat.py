"""Chat completions: deltas of every choice become its message. Pure.

When is nothing missing? Text that llama-server holds back (the beginning of a stop string, half a
character) is never streamed when the token limit ends the answer, while the unstreamed one has it. So the
stream is asked to count (timings_per_token), and a limited answer is believed only if its last token
brought text or arguments.
"""

import re
from collections import defaultdict
from typing import Any

from supervisor.proxy.assembly.events import (
    DONE,
    STRING,
    dumps,
    expect,
    loads,
    predicted_n,
    raw,
    timings_of,
)
from supervisor.proxy.assembly.faults import Incomplete, Unknown, Unsure

_CONTENT = re.compile(
    r'\{"choices":\[\{"finish_reason":null,"index":(\d+),"delta":\{"content":"'
    + STRING
    + r'"\}\}\],"created":'
)
_EVENT = frozenset(
    [
        "choices",
        "created",
        "id",
        "model",
        "system_fingerprint",
        "object",
        "usage",
        "timings",
        "prompt_progress",
    ]
)
_CHOICE = frozenset(("finish_reason", "index", "delta"))
_DELTA = frozenset(("role", "content", "reasoning_content", "tool_calls"))
_CALL = frozenset(("index", "id", "type", "function"))
_FUNCTION = frozenset(("name", "arguments"))


class _Call:
    """One tool call; its name comes whole, and again when it has grown, its arguments piece by piece."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def text(self) -> str:
        arguments = "".join(self.arguments)
        function = f'{{"name":{dumps(self.name)},"arguments":"{arguments}"}}'
        id_ = f',"id":{dumps(self.id)}' if self.id else ""
        return f'{{"type":"function","function":{function}{id_}}}'


class _Choice:
    """One of n answers. What is text is raw JSON."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[_Call] = []
        self.last = ""  # the last event that brought something
        self.finish = ""
        self.end: dict[str, Any] = {}  # the usage event, decoded
        self.timings = ""

    def delta(self, payload: str, delta: dict[str, Any]) -> None:
        expect(delta, _DELTA)
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        if content:
            self.content.append(raw(content))
        if reasoning:
            self.reasoning.append(raw(reasoning))
        for call in delta.get("tool_calls", ()):
            self._call(call)
        if content or reasoning or "tool_calls" in delta:
            self.last = payload

    def _call(self, delta: dict[str, Any]) -> None:
        expect(delta, _CALL)
        if delta["index"] == len(self.calls):
            self.calls.append(_Call())
        elif delta["index"] > len(self.calls):
            raise Unknown("a tool call was left out")
        call, function = self.calls[delta["index"]], delta.get("function", {})
        expect(function, _FUNCTION)
        call.id = delta.get("id", call.id)
        call.name = function.get("name", call.name)
        call.arguments.append(raw(function.get("arguments", "")))

    def text(self, index: int) -> str:
        content, reasoning = "".join(self.content), "".join(self.reasoning)
        message = f'"role":"assistant","content":"{content}"'
        if reasoning:
            message += f',"reasoning_content":"{reasoning}"'
        if self.calls:
            message += f',"tool_calls":[{",".join(call.text() for call in self.calls)}]'
        return f'{{"finish_reason":"{self.finish}","index":{index},"message":{{{message}}}}}'

    def doubt(self) -> str | None:
        """Why something may be missing, if so."""
        made = self.end["usage"]["completion_tokens"]
        if self.finish == "length" and made and predicted_n(self.last) != made:
            return "the last token before the limit brought no text"
        if made > 1 and not (self.content or self.reasoning or self.calls):
            return "the parser found no message, so the unparsed text would be the answer"
        return None


def assemble(events: list[str], parsed: dict[str, Any]) -> str:
    """The unstreamed answer's JSON.

    Raises:
        Incomplete: the stream did not come to its end.
        Unsure: something may be missing.
    """
    if events[-1] != DONE:
        raise Incomplete("the stream has no [DONE]")
    choices = _read(events[:-1])
    indices = sorted(choices)
    if indices != list(range(len(indices))) or any(not choices[i].end for i in indices):
        raise Incomplete("a choice has no end")
    first = choices[0]
    text = _whole(first, ",".join(choices[index].text(index) for index in indices))
    for index in indices:
        if why := choices[index].doubt():
            raise Unsure(why, text.encode())
    return text


def _read(events: list[str]) -> dict[int, _Choice]:
    choices: defaultdict[int, _Choice] = defaultdict(_Choice)
    ended: _Choice | None = None  # llama-server writes a choice's usage right behind its end
    for payload in events:
        if found := _CONTENT.match(payload):  # nine events in ten
            choice = choices[int(found.group(1))]
            choice.content.append(found.group(2))
            choice.last = payload
            continue
        event = loads(payload)
        expect(event, _EVENT)
        if event["choices"]:
            ended = _step(choices, payload, event["choices"][0]) or ended
        elif ended is None or ended.end:
            raise Unknown("usage of no choice")
        else:
            ended.end, ended.timings = event, timings_of(payload)
    return choices


def _step(choices: defaultdict[int, _Choice], payload: str, part: dict[str, Any]) -> _Choice | None:
    """Take one event of a choice; the choice, if this was its last."""
    expect(part, _CHOICE)
    choice = choices[part["index"]]
    choice.delta(payload, part["delta"])
    if part["finish_reason"] is None:
        return None
    choice.finish = part["finish_reason"]
    return choice


def _whole(first: _Choice, choices: str) -> str:
    """The first choice's usage and timings stand for all, as they do unstreamed."""
    end = first.end
    timings = f',"timings":{first.timings}' if first.timings else ""
    return (
        f'{{"choices":[{choices}],"created":{end["created"]},"model":{dumps(end["model"])},'
        f'"system_fingerprint":{dumps(end["system_fingerprint"])},"object":"chat.completion",'
        f'"usage":{dumps(end["usage"])},"id":{dumps(end["id"])}{timings}}}'
    )
