"""Responses. llama-server turns them into a chat and lets the chat's own fields through: so the text so far
goes back as an output item, to be continued. The last events repeat the whole answer and are made whole.
"""

from typing import Any

from supervisor.proxy.continuation import sums
from supervisor.proxy.continuation.answer import Answer, checked
from supervisor.proxy.continuation.asked import Asked, CannotContinue, Json
from supervisor.proxy.continuation.chat import thought
from supervisor.proxy.continuation.sse import Event

_OPENING = {"response.created", "response.in_progress"}
_DELTAS = {"response.output_text.delta": "message", "response.reasoning_text.delta": "reasoning"}


class ResponsesAnswer(Answer):
    LIMITS = ("n_predict", "max_completion_tokens", "max_output_tokens", "max_tokens")

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._id = ""
        self._items: dict[str, str] = {}  # kind: id, as the client knows it
        self._part_begun = False
        self._done: set[tuple[str, str]] = set()  # (event, kind) of what was closed
        self._number: int | None = None  # of the last event, where they are numbered

    @property
    def limit(self) -> int | None:
        """``max_output_tokens`` takes the place of ``max_tokens``, even as null."""
        names = [
            name
            for name in self.LIMITS
            if name != "max_tokens" or "max_output_tokens" not in self.asked.fields
        ]
        return self.asked.limit(*names)

    # ---- what the client has

    def heard(self, event: Event) -> None:
        data = event.data
        if data is None:
            return
        kind = checked(data["type"])
        self._number = data.get("sequence_number")
        if "timings" in data:
            self.timings = data["timings"]
        if kind in _OPENING:
            self._id = checked(data["response"]["id"])
        elif kind == "response.output_item.added":
            item = data["item"]
            if item["type"] not in {"message", "reasoning"}:
                self.tool_call = True
            self._items[checked(item["type"])] = checked(item["id"])
        elif kind == "response.content_part.added":
            self._part_begun = True
        elif kind in _DELTAS:
            if _DELTAS[kind] == "message":
                self.add_text(data["delta"])
            else:
                self.add_reasoning(data["delta"])
            self.count(data)
        elif kind == "response.completed":
            self.finished = True
        elif kind.endswith(".done"):
            self._done.add((kind, _kind_of(data)))
            self.reason_sent = True
        elif kind != "response.function_call_arguments.delta":
            raise ValueError(f"an event {kind!r}")

    # ---- the request for the rest

    def resumed(self, limit: int | None) -> bytes:
        if self.asked.fields.get("continue_final_message"):
            raise CannotContinue("the client continues a message of its own")
        return self.asked.but(
            self.LIMITS,
            input=[*self._conversation(), *self._output()],
            continue_final_message=True,
            add_generation_prompt=False,
            **self.limited(limit, "max_output_tokens"),
        )

    def _conversation(self) -> list[Any]:
        """The input without a beginning of the answer by the client, which was repeated to it."""
        given = self.asked.fields["input"]
        if isinstance(given, str):
            return [{"role": "user", "content": given}]
        others: list[Any]
        *others, last = given
        if not _is_output(last):
            return [*others, last]
        if (others and _is_output(others[-1])) or last.get("type") != "message":
            raise CannotContinue("the input ends in several output items")
        content = last["content"]
        own = content if isinstance(content, str) else "\n\n".join(part["text"] for part in content)
        if not self.text.startswith(own):
            raise CannotContinue("the answer does not begin as the client's own last message does")
        return others

    def _output(self) -> list[Json]:
        """What was said, thinking last: llama-server joins it to a message, not a message to it."""
        items: list[Json] = []
        if self.text_begun:
            part = {"type": "output_text", "text": self.text}
            items.append({"type": "message", "role": "assistant", "content": [part]})
        if self.reasoning:
            thinking = {"type": "reasoning_text", "text": thought(self.reasoning, self.text)}
            items.append({"type": "reasoning", "summary": [], "content": [thinking]})
        return items

    # ---- events of a new generation

    def rewritten(self, event: Event) -> Json | None:
        assert event.data is not None  # noqa: S101  comments are not rewritten
        data = self._fitting(dict(event.data))
        if data is not None and self._number is not None and "sequence_number" in data:
            data["sequence_number"] = self._number + 1
        return data

    def _fitting(self, data: Json) -> Json | None:
        kind = checked(data["type"])
        if "timings" in data:
            data["timings"] = sums.timings(self.before_timings, data["timings"], ending=self.ending)
        if kind in _OPENING:
            return None if self._id else data
        if kind == "response.completed":
            return {**data, "response": self._completed(data["response"])}
        if kind.endswith(".done"):
            return self._closing(kind, data)
        if self.ending:
            return None
        if kind == "response.output_item.added":
            return None if data["item"]["type"] in self._items else data
        if kind == "response.content_part.added":
            return None if self._part_begun else self._named(data, "message")
        if kind in _DELTAS:
            return self._named(data, _DELTAS[kind]) if data["delta"] else None
        return data

    def _named(self, data: Json, kind: str) -> Json:
        return {**data, "item_id": self._items[kind]} if kind in self._items else data

    def _closing(self, event: str, data: Json) -> Json | None:
        kind = _kind_of(data)
        if (event, kind) in self._done or (self.ending and kind not in self._items):
            return None
        if "item" in data:
            return {**data, "item": self._whole(data["item"])}
        data = self._named(data, kind)
        whole = self._whole_text if kind == "message" else self._whole_thinking
        if "text" in data:
            data["text"] = whole(data["text"])
        if "part" in data:
            data["part"] = {**data["part"], "text": whole(data["part"]["text"])}
        return data

    def _whole(self, item: Json) -> Json:
        """An item of the finished answer, with the id the client knows and all that was said."""
        kind = item["type"]
        if kind not in {"message", "reasoning"}:
            return item
        (part,) = item["content"]
        text = self._whole_text(part["text"]) if kind == "message" else self._whole_thinking(part["text"])
        return {**item, "id": self._items.get(kind, item["id"]), "content": [{**part, "text": text}]}

    def _whole_text(self, text: str) -> str:
        """llama-server's own where it holds all that was sent: its last token may have made no delta."""
        sent = self.text
        return text if text.startswith(sent) and not self.ending else sent

    def _whole_thinking(self, _: str) -> str:
        """What was sent: llama-server's own holds the line break that a template ends thinking with."""
        return self.reasoning

    def _completed(self, response: Json) -> Json:
        output = [
            self._whole(item) for item in response["output"] if not self.ending or item["type"] in self._items
        ]
        usage = sums.usage(response["usage"], self.before, ending=self.ending, names=sums.RESPONSES)
        return {**response, "id": self._id or response["id"], "output": output, "usage": usage}


def _is_output(item: Json) -> bool:
    return item.get("role") == "assistant" or item.get("type") in {"reasoning", "function_call"}


def _kind_of(data: Json) -> str:
    """Which item an event that closes something is about: there are several tool calls, but one of the others."""
    item = data.get("item")
    if item is None:
        return "reasoning" if "reasoning" in data["type"] else "message"
    return checked(item["type"] if item["type"] in {"message", "reasoning"} else item["id"])
