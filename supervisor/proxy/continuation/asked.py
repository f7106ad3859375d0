"""What the client asked: the fields of its request that matter when the answer is to go on."""

import json
import math
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

# What reading foreign JSON can raise where its shape is not the expected one; RecursionError is deep nesting.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class CannotContinue(Exception):
    """Why an answer cannot go on: a few words for a log line and for the client's error."""


class Asked:
    """A request as llama-server got it. Raises CannotContinue where no stream of it can be continued."""

    __slots__ = ("body", "fields", "target")

    def __init__(self, target: bytes, body: bytes) -> None:
        self.target = target
        self.body = body
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise CannotContinue("the request is not JSON") from exc
        if not isinstance(fields, dict) or fields.get("stream") is not True:
            raise CannotContinue("the request did not ask for a stream")
        self.fields: Json = fields
        if self.number("n_cmpl", "n") not in {None, 1}:
            raise CannotContinue("several completions share the stream (n > 1)")

    def number(self, *names: str) -> int | None:
        """The first of these fields that is not null: llama-server looks for aliases in an order of its own."""
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise CannotContinue(f"'{name}' is not a number")
            return int(value)
        return None

    def limit(self, *names: str) -> int | None:
        """How many tokens were asked for at most; None where there is no limit (absent, or -1)."""
        value = self.number(*names)
        return None if value is None or value < 0 else value

    def refuse(self, *, chat: bool) -> None:
        """Raise CannotContinue where the request asks for something that has no right second half."""
        fields = self.fields
        if fields.get("logprobs") or fields.get("n_probs"):
            raise CannotContinue("log probabilities were asked for")
        if fields.get("verbose"):
            raise CannotContinue("verbose output was asked for")
        if chat and fields.get("grammar"):
            # One of the client's own is not advanced over text that is already there: the answer would begin anew in the middle.
            raise CannotContinue("llama-server cannot resume a grammar in a chat")

    @property
    def constrained(self) -> bool:
        """Whether a grammar decides what may be said."""
        return any(
            self.fields.get(name) is not None for name in ("grammar", "json_schema", "response_format")
        )

    def but(self, without: Iterable[str] = (), **changed: Any) -> bytes:
        """The body with some fields changed and some left out; ASCII, so that any text survives."""
        gone = {*without, *changed}
        kept = {name: value for name, value in self.fields.items() if name not in gone}
        return json.dumps({**kept, **changed}, separators=(",", ":")).encode()
