"""Chat completions. The text so far becomes the last message, which llama-server is told to continue.

With ``continue_final_message`` the stream holds the new text only. Grammars made from a JSON schema or from
tools are advanced over the message by llama-server itself.
"""

from supervisor.proxy.continuation import sums
from supervisor.proxy.continuation.answer import Answer, checked, kept
from supervisor.proxy.continuation.asked import Asked, CannotContinue, Json
from supervisor.proxy.continuation.sse import Event


class ChatAnswer(Answer):
    LIMITS = ("n_predict", "max_completion_tokens", "max_tokens")

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._role_sent = self._usage_sent = False

    def heard(self, event: Event) -> None:
        data = self.openai(event)
        if data is None:
            return
        if not data["choices"]:
            self._usage_sent = True
            return
        (choice,) = data["choices"]
        if choice["index"] != 0:
            raise ValueError("a second choice")
        self._hear_delta(choice["delta"], data)
        if choice.get("finish_reason") is not None:
            self.reason_sent = True

    def _hear_delta(self, delta: Json, data: Json) -> None:
        self._role_sent |= "role" in delta
        if delta.get("tool_calls"):
            self.tool_call = True
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        if reasoning:
            self.add_reasoning(reasoning)
        if content:
            self.add_text(content)
        if content or reasoning:
            self.count(data)

    def resumed(self, limit: int | None) -> bytes:
        return self.asked.but(
            (*self.LIMITS, "echo"),
            messages=self._messages(),
            continue_final_message=True,
            add_generation_prompt=False,
            **self.limited(limit, "max_tokens"),
        )

    def _messages(self) -> list[Json]:
        fields = self.asked.fields
        *others, last = fields["messages"]
        if last.get("role") != "assistant":
            return [*others, last, assistant({}, self.text, self.reasoning)]
        # The client has begun the answer itself.
        text, reasoning = spoken(last.get("content")), checked(last.get("reasoning_content") or "")
        if fields.get("continue_final_message") and not fields.get("echo"):
            return [*others, assistant(last, text + self.text, reasoning + self.reasoning)]
        if not self.text.startswith(text):
            raise CannotContinue("the answer does not begin as the client's own last message does")
        return [*others, assistant(last, self.text, self.reasoning)]  # it was echoed to the client

    def rewritten(self, event: Event) -> Json | None:
        assert event.data is not None  # noqa: S101  comments and [DONE] are not rewritten
        data = kept(event.data, self.first)
        if "timings" in data:
            data["timings"] = sums.timings(self.before_timings, data["timings"], ending=self.ending)
        if "usage" in data:
            data["usage"] = sums.usage(data["usage"], self.before, ending=self.ending, names=sums.OPENAI)
        if not data["choices"]:
            return None if self._usage_sent else data
        (choice,) = data["choices"]
        delta = choice["delta"]
        if self._role_sent and "role" in delta:  # of the first token, or of progress with the prompt
            delta = {name: value for name, value in delta.items() if name != "role" and value is not None}
            if not delta:
                return None
        if choice["finish_reason"] is None:
            return None if self.ending else {**data, "choices": [{**choice, "delta": delta}]}
        if self.reason_sent:
            return None
        reason = self.end_reason if self.ending else choice["finish_reason"]
        return {**data, "choices": [{**choice, "delta": delta, "finish_reason": reason}]}


def spoken(content: object) -> str:
    """The text of a message's content as llama-server renders it for continuation."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or any(part["type"] != "text" for part in content):
        raise CannotContinue("the client's own last message is more than text")
    return "\n\n".join(part["text"] for part in content)


def assistant(message: Json, text: str, reasoning: str) -> Json:
    """``message`` (the client's own beginning, or nothing) with this said."""
    said: Json = {**message, "role": "assistant", "content": text}
    said.pop("reasoning_content", None)
    if reasoning:
        said["reasoning_content"] = thought(reasoning, text)
    return said


def thought(reasoning: str, text: str) -> str:
    """Thinking as it belongs into a message whose text has begun.

    Templates end it with a line break, the tag and a line break, of which the stream shows the first only.
    Text that begins with white space shows that this template's tag stands alone.
    """
    return reasoning if not text or text[0].isspace() else reasoning.rstrip("\n")
