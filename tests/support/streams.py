"""What a client makes of the event streams of llama-server's endpoints. Strict: what should not come fails."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """An answer as the client of one endpoint has it at the end."""

    text: str = ""
    reasoning: str = ""
    reason: str | None = None  # why it ended
    ids: set[Any] = field(default_factory=set)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    timings: dict[str, Any] | None = None
    ends: int = 0  # how often the last event came
    marks: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> tuple[str, str, str | None]:
        return self.reasoning, self.text, self.reason


def events(stream: bytes) -> list[bytes]:
    """Whole events; the stream must end at a boundary."""
    *blocks, rest = stream.split(b"\n\n")
    assert not rest, f"half an event: {rest!r}"
    return [block + b"\n\n" for block in blocks]


def told(path: str, stream: bytes) -> Told:
    answer = Told()
    reader = {
        "/v1/chat/completions": _chat,
        "/v1/completions": _text,
        "/completion": _native,
        "/v1/messages": _Messages(),
        "/v1/responses": _Responses(),
    }[path]
    for block in events(stream):
        if block.startswith(b":"):
            answer.marks += block == b": llmsup-continued\n\n"
            continue
        assert not answer.ends, f"an event after the last: {block!r}"
        *name, data = block.rstrip(b"\n").split(b"\n")
        assert data.startswith(b"data: "), block
        if data == b"data: [DONE]":
            assert path in {"/v1/chat/completions", "/v1/completions"}
            answer.ends += 1
            continue
        event = json.loads(data[6:])
        assert "error" not in event, event
        if name:
            assert name == [b"event: " + event["type"].encode()]
        reader(answer, event)
    return answer


def _chat(answer: Told, event: dict[str, Any]) -> None:
    answer.ids.add((event["id"], event["model"], event["object"]))
    _timed(answer, event)
    if usage := event.get("usage"):
        assert answer.completion_tokens is None, "usage twice"
        answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    for choice in event["choices"]:
        assert choice["index"] == 0
        assert answer.reason is None, "a delta after the reason"
        delta = choice["delta"]
        if delta.get("role") and "prompt_progress" not in event:
            assert not answer.last.get("role"), "the role twice"
            answer.last["role"] = delta["role"]
        answer.reasoning += delta.get("reasoning_content") or ""
        answer.text += delta.get("content") or ""
        answer.reason = choice["finish_reason"]


def _text(answer: Told, event: dict[str, Any]) -> None:
    answer.ids.add((event["id"], event["model"], event["object"]))
    _timed(answer, event)
    (choice,) = event["choices"]
    assert answer.reason is None
    answer.text += choice["text"]
    answer.reason = choice["finish_reason"]
    if usage := event.get("usage"):
        answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]


def _native(answer: Told, event: dict[str, Any]) -> None:
    _timed(answer, event)
    answer.text += event["content"]
    answer.prompt_tokens, answer.completion_tokens = event["tokens_evaluated"], event["tokens_predicted"]
    if event["stop"]:
        answer.reason, answer.last = event["stop_type"], event
        answer.ends += 1


class _Messages:
    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.started = False

    def __call__(self, answer: Told, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert self.started == (kind != "message_start"), kind
        if kind == "message_start":
            self.started = True
            answer.ids.add(event["message"]["id"])
        elif kind == "content_block_start":
            assert event["index"] not in self.open, "a block begun twice"
            self.open[event["index"]] = event["content_block"]["type"]
        elif kind == "content_block_delta":
            delta = event["delta"]
            block = self.open[event["index"]]
            if block == "text":
                answer.text += delta["text"]
            elif delta["type"] == "thinking_delta":
                assert block == "thinking"
                answer.reasoning += delta["thinking"]
        elif kind == "content_block_stop":
            self.open[event["index"]] += ", closed"
        elif kind == "message_delta":
            assert all(block.endswith(" closed") and block.count(",") == 1 for block in self.open.values())
            assert answer.reason is None
            answer.reason = event["delta"]["stop_reason"]
            answer.completion_tokens = event["usage"]["output_tokens"]
        else:
            assert kind == "message_stop"
            answer.ends += 1


class _Responses:
    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, answer: Told, event: dict[str, Any]) -> None:
        kind = event["type"]
        self.seen[kind] = self.seen.get(kind, 0) + 1
        _timed(answer, event)
        if "response" in event:
            answer.ids.add(event["response"]["id"])
        if kind == "response.output_item.added":
            assert event["item"]["type"] not in answer.last, "an item added twice"
            answer.last[event["item"]["type"]] = event["item"]["id"]
        elif kind == "response.output_text.delta":
            assert event["item_id"] == answer.last["message"]
            answer.text += event["delta"]
        elif kind == "response.reasoning_text.delta":
            assert event["item_id"] == answer.last["reasoning"]
            answer.reasoning += event["delta"]
        elif kind == "response.output_text.done":
            assert (event["item_id"], event["text"]) == (answer.last["message"], answer.text)
        elif kind == "response.content_part.done":
            assert (event["item_id"], event["part"]["text"]) == (answer.last["message"], answer.text)
        elif kind == "response.output_item.done":
            self._item(answer, event["item"])
        elif kind == "response.completed":
            self._completed(answer, event["response"])

    def _item(self, answer: Told, item: dict[str, Any]) -> None:
        (part,) = item["content"]
        assert item["id"] == answer.last[item["type"]]
        assert part["text"] == (answer.text if item["type"] == "message" else answer.reasoning)

    def _completed(self, answer: Told, response: dict[str, Any]) -> None:
        once = {"response.created", "response.content_part.added", "response.output_text.done"}
        assert all(self.seen.get(kind, 0) <= 1 for kind in once), self.seen
        for item in response["output"]:
            self._item(answer, item)
        assert [item["type"] for item in response["output"]] == sorted(answer.last, reverse=True)
        assert self.seen.get("response.output_item.done", 0) == len(answer.last)
        answer.reason = response["status"]
        usage = response["usage"]
        answer.prompt_tokens, answer.completion_tokens = usage["input_tokens"], usage["output_tokens"]
        answer.ends += 1


def _timed(answer: Told, event: dict[str, Any]) -> None:
    if "timings" in event:
        answer.timings = event["timings"]
