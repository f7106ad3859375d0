"""What the client has of an answer, and how the rest is asked for: the part all dialects share.

Two rules make it right. State changes by `heard` alone, which gets every event the client got, from the
first generation or a later one; and `rewritten` turns an event of a new generation into one that fits
behind these. So a second death needs nothing that the first did not.
"""

from abc import ABC, abstractmethod

from supervisor.proxy.continuation.asked import Asked, CannotContinue, Json
from supervisor.proxy.continuation.sse import Event

# How a model's thinking begins where it is not told apart from the text. As a trailing message such text
# would be put behind a second, empty thinking block.
_THINKING_TAGS = ("<think>", "[THINK]", "<|channel|>", "<seed:think>")
# What llama-server sends for bytes of a token that make no character.
_NO_CHARACTER = "\ufffd"
_IDENTITY = ("id", "created", "model", "system_fingerprint")


class Answer(ABC):
    """One answer in one dialect."""

    LIMITS: tuple[str, ...]
    CHAT = True  # a template stands between the text and the prompt

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.first: Json = {}  # of OpenAI's forms: what names the answer, in its first event
        self.finished = False  # the last event has been sent
        self.tokens = 0  # generated for what was sent, as far as one can count from outside
        self.tool_call = False  # one has been begun
        self.reason_sent = False  # why the generation ended has been said; only usage and the end are missing
        self.stopped = False  # it ended at a stop string, which has not been said yet
        self.timings: Json | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        # Of the generation under way: the tokens before it, the timings before it, and whether it is asked
        # for nothing but the ending.
        self.before = 0
        self.before_timings: Json | None = None
        self.ending = False

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def text_begun(self) -> bool:
        return bool(self._text)

    @property
    def begun(self) -> bool:
        """Whether anything generated has been sent."""
        return bool(self._text or self._reasoning)

    @property
    def limit(self) -> int | None:
        return self.asked.limit(*self.LIMITS)

    @property
    def end_reason(self) -> str:
        """What an ending says: the new generation's own reason is about a token nobody wanted."""
        return "stop" if self.stopped else "length"

    def add_text(self, piece: str) -> None:
        if not piece:
            return
        if self._reasoning and not self._text:
            # The tag that ends the thinking is not shown, nor a line break that belongs to it.
            self.tokens += 1 if piece[0].isspace() else 2
        self._text.append(checked(piece))

    def add_reasoning(self, piece: str) -> None:
        if piece:
            self._reasoning.append(checked(piece))

    def count(self, data: Json) -> None:
        """One chunk is one token; more where tokens made no chunk because they completed no character, or
        were held back as the possible start of a stop string. Timings tell, where they are asked for.
        """
        told = data["timings"]["predicted_n"] if "timings" in data else 0
        self.tokens = max(self.tokens + 1, told)
        # Where they were not asked for they come with the last text before a stop string and with the end.
        self.stopped = "timings" in data and not self.asked.fields.get("timings_per_token")

    def request(self) -> bytes:
        """The body of the next request. Raises CannotContinue."""
        self.before, self.before_timings = self.tokens, self.timings if self.begun else None
        self.ending = False
        if self.finished:
            raise CannotContinue("the answer is whole")
        if self.tool_call:
            raise CannotContinue("a tool call was half sent")
        if not self.begun and not self.reason_sent:
            return self.asked.body
        self.asked.refuse(chat=self.CHAT)
        if self.CHAT and self.text.lstrip().startswith(_THINKING_TAGS):
            raise CannotContinue("the model's thinking is part of its text")
        if _NO_CHARACTER in self.text and self.asked.constrained:
            raise CannotContinue(
                "the text holds bytes that are no characters, which its grammar would not take"
            )
        limit = self.limit
        # At least one token is generated, whatever is asked for: the text of an ending is thrown away.
        self.ending = self.reason_sent or self.stopped or (limit is not None and self.tokens >= limit)
        if self.ending:
            return self.resumed(1)
        return self.resumed(None if limit is None else limit - self.tokens)

    def openai(self, event: Event) -> Json | None:
        """What every event of OpenAI's two forms says beside the text; its data, if it has any."""
        if event.done:
            self.finished = True
        data = event.data
        if data is None:
            return None
        if not self.first:
            self.first = {name: data[name] for name in _IDENTITY if name in data}
        if "timings" in data:
            self.timings = data["timings"]
        return data

    @abstractmethod
    def resumed(self, limit: int | None) -> bytes:
        """The body that asks for what comes after the text so far. Raises CannotContinue."""

    @abstractmethod
    def heard(self, event: Event) -> None:
        """The client has got this. Raises one of MALFORMED where it is not what this dialect sends."""

    @abstractmethod
    def rewritten(self, event: Event) -> Json | None:
        """What the client is to get for this event of a new generation; None: nothing. Raises as `heard`."""

    def limited(self, limit: int | None, name: str) -> Json:
        """The field that carries the limit, to go with ``but(without=LIMITS)``; unlimited stays as it was."""
        if limit is not None:
            return {name: limit}
        return {known: self.asked.fields[known] for known in self.LIMITS if known in self.asked.fields}


def checked(piece: str) -> str:
    if not isinstance(piece, str):
        raise TypeError("text that is no string")
    return piece


def kept(data: Json, first: Json) -> Json:
    """``data`` with the values that ``first`` has for the same keys."""
    return {name: first.get(name, value) for name, value in data.items()}
