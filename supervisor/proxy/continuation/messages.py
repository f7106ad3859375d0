"""Anthropic messages. llama-server continues a trailing assistant message here too, but repeats it first.

So what the new generation repeats is taken off again. The blocks that are open stay open.
"""

from supervisor.proxy.continuation.answer import Answer, checked
from supervisor.proxy.continuation.asked import Asked, CannotContinue, Json
from supervisor.proxy.continuation.chat import assistant, spoken
from supervisor.proxy.continuation.sse import Event

_DEFAULT_LIMIT = 4096  # llama-server's, where the request says nothing
_KINDS = {"text_delta": "text", "thinking_delta": "thinking"}


class MessagesAnswer(Answer):
    LIMITS = ("max_tokens",)

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._started = False
        self._blocks: dict[int, str] = {}  # the kind of each block that was begun
        self._signed: set[int] = set()
        self._closed: set[int] = set()
        self._echo = {"text": "", "thinking": ""}  # what the new generation is still expected to repeat

    @property
    def limit(self) -> int | None:
        return super().limit if self.asked.fields.get("max_tokens") is not None else _DEFAULT_LIMIT

    def heard(self, event: Event) -> None:
        data = event.data
        if data is None:
            return
        match data["type"]:
            case "message_start":
                self._started = True
            case "content_block_start":
                kind = checked(data["content_block"]["type"])
                self._blocks[data["index"]] = kind
                self.tool_call |= kind not in {"text", "thinking"}
            case "content_block_delta":
                self._hear_delta(data["index"], data["delta"])
            case "content_block_stop":
                self._closed.add(data["index"])
            case "message_delta":
                self.reason_sent = True
            case "message_stop":
                self.finished = True
            case unknown:
                raise ValueError(f"an event {unknown!r}")

    def _hear_delta(self, index: int, delta: Json) -> None:
        kind = delta["type"]
        if kind == "signature_delta":
            self._signed.add(index)
        elif kind in _KINDS:
            if self._blocks[index] != _KINDS[kind]:
                raise ValueError("a delta of another kind than its block")
            if kind == "text_delta":
                self.add_text(delta["text"])
            else:
                self.add_reasoning(delta["thinking"])
            self.tokens += 1

    def request(self) -> bytes:
        if self._closed and not self.reason_sent and not self.finished:
            raise CannotContinue("the answer was cut between its text and the reason for its end")
        self._echo = {"text": "", "thinking": ""}
        return super().request()

    def resumed(self, limit: int | None) -> bytes:
        *others, last = self.asked.fields["messages"]
        if last.get("role") != "assistant":
            message = assistant({}, self.text, self.reasoning)
            others.append(last)
        else:  # begun by the client itself, and repeated to it
            if not self.text.startswith(spoken(last.get("content"))):
                raise CannotContinue("the answer does not begin as the client's own last message does")
            message = assistant({}, self.text, self.reasoning)
        self._echo = {"text": self.text, "thinking": message.get("reasoning_content", "")}
        return self.asked.but(self.LIMITS, messages=[*others, message], **self.limited(limit, "max_tokens"))

    def rewritten(self, event: Event) -> Json | None:
        data = event.data
        assert data is not None  # noqa: S101  comments are not rewritten
        match data["type"]:
            case "message_start":
                return None if self._started else data
            case "content_block_start":
                return None if self.ending or data["index"] in self._blocks else data
            case "content_block_delta":
                return self._delta(data)
            case "content_block_stop":
                return None if data["index"] in self._closed or data["index"] not in self._blocks else data
            case "message_delta":
                return None if self.reason_sent else self._reason(data)
            case _:
                return data

    def _delta(self, data: Json) -> Json | None:
        delta, index = data["delta"], data["index"]
        if delta["type"] == "signature_delta":
            return None if index in self._signed or index not in self._blocks else data
        if self.ending:
            return None
        kind = _KINDS.get(delta["type"])
        if kind is None:
            return data
        piece = self._without_echo(kind, checked(delta[kind]))
        if not piece or (kind == "thinking" and self.text_begun and not piece.strip()):
            return None  # the line break of the tag that ends thinking is repeated as part of it
        return {**data, "delta": {**delta, kind: piece}}

    def _without_echo(self, kind: str, piece: str) -> str:
        expected = self._echo[kind]
        common = min(len(expected), len(piece))
        if expected[:common] != piece[:common]:
            raise ValueError("the text so far was not repeated as it was")
        self._echo[kind] = expected[common:]
        return piece[common:]

    def _reason(self, data: Json) -> Json:
        usage = dict(data["usage"])
        usage["output_tokens"] = self.before + (0 if self.ending else usage["output_tokens"])
        delta = data["delta"]
        if self.ending:
            delta = {**delta, "stop_reason": "max_tokens", "stop_sequence": None}
        return {**data, "delta": delta, "usage": usage}
