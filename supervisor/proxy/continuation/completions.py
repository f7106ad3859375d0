"""Completions of a plain prompt, native and in OpenAI's form: the text so far is put behind the prompt.

Native events carry the tokens themselves, and where none is missing these are used: text is not always cut
into tokens again as the model made it.
"""

from typing import Any

from supervisor.proxy.continuation import sums
from supervisor.proxy.continuation.answer import Answer, kept
from supervisor.proxy.continuation.asked import Asked, CannotContinue, Json
from supervisor.proxy.continuation.sse import Event


class PromptAnswer(Answer):
    """What both forms share: the prompt."""

    LIMITS = ("n_predict", "max_completion_tokens", "max_tokens")
    CHAT = False

    def resumed(self, limit: int | None) -> bytes:
        return self.asked.but(
            self.LIMITS,
            prompt=self._prompt(self.asked.fields["prompt"]),
            **self._grammar(),
            **self.limited(limit, "n_predict"),
        )

    def said(self) -> list[Any] | None:
        """The tokens of the text so far, if known."""
        return None

    def _prompt(self, prompt: Any) -> Any:
        if isinstance(prompt, dict):
            return {**prompt, "prompt_string": prompt["prompt_string"] + self.text}
        if isinstance(prompt, list) and not any(isinstance(part, int) for part in prompt):
            if len(prompt) != 1:
                raise CannotContinue("several prompts share the stream")
            return self._prompt(prompt[0])
        tokens = self.said()
        if isinstance(prompt, str):
            # One string where there are no tokens: vocabularies that put a space before each piece of text
            # (SentencePiece) would put one at the seam.
            return prompt + self.text if tokens is None else [prompt, *tokens]
        return [*prompt, *([self.text] if tokens is None else tokens)]

    def _grammar(self) -> Json:
        """What makes llama-server advance a grammar over the text so far.

        It does that over a "generation prompt", and in a grammar of the client's own only where that is
        declared to come from a chat template.
        """
        fields = self.asked.fields
        schema, grammar = fields.get("json_schema"), fields.get("grammar")
        if schema is None and not grammar:
            return {}
        if fields.get("grammar_lazy"):
            raise CannotContinue("a grammar that waits for its trigger cannot be resumed")
        advanced: Json = {"generation_prompt": (fields.get("generation_prompt") or "") + self.text}
        if grammar:
            advanced["grammar_type"] = "tool_calls"
        return advanced


class TextAnswer(PromptAnswer):
    """/v1/completions."""

    def heard(self, event: Event) -> None:
        data = self.openai(event)
        if data is None:
            return
        (choice,) = data["choices"]
        if choice["index"] != 0:
            raise ValueError("a second choice")
        if choice["finish_reason"] is not None:
            self.reason_sent = True
        if choice["text"] and "prompt_progress" not in data:
            self.add_text(choice["text"])
            self.count(data)

    def rewritten(self, event: Event) -> Json | None:
        assert event.data is not None  # noqa: S101  comments and [DONE] are not rewritten
        data = kept(event.data, self.first)
        if self.reason_sent or (self.begun and "prompt_progress" in data):
            return None
        (choice,) = data["choices"]
        if "timings" in data:
            data["timings"] = sums.timings(self.before_timings, data["timings"], ending=self.ending)
        if "usage" in data:
            data["usage"] = sums.usage(data["usage"], self.before, ending=self.ending, names=sums.OPENAI)
        if self.ending:
            if choice["finish_reason"] is None:
                return None
            data["choices"] = [{**choice, "text": "", "finish_reason": self.end_reason}]
        return data


class NativeAnswer(PromptAnswer):
    """/completion. Its last event has ``"stop":true``; there is no `[DONE]`."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._ids: list[int] = []
        self._pending: list[int] = []  # of text that is held back: generated again if the stream ends here
        self._prompt_tokens: int | None = None
        self._characters_before = 0  # of the text, at the start of the generation under way
        if asked.fields.get("response_fields"):
            raise CannotContinue("the answer's last event is reshaped by response_fields")

    def heard(self, event: Event) -> None:
        data = event.data
        if data is None:
            return
        if data["index"] != 0:
            raise ValueError("a second prompt")
        if self._prompt_tokens is None:
            self._prompt_tokens = data["tokens_evaluated"]
        if "timings" in data:
            self.timings = data["timings"]
        if data["stop"]:
            self.finished = True
        elif "prompt_progress" not in data:
            self._pending += data["tokens"]
            if data["content"]:
                self.add_text(data["content"])
                self._ids += self._pending
                self._pending = []
                self.count(data)
                self.tokens = data["tokens_predicted"]

    def request(self) -> bytes:
        self._pending = []
        self._characters_before = len(self.text)
        return super().request()

    def said(self) -> list[Any] | None:
        # The tokens of a character that took several are not all sent.
        complete = len(self._ids) == self.tokens and all(isinstance(token, int) for token in self._ids)
        return list(self._ids) if complete else None

    def rewritten(self, event: Event) -> Json | None:
        assert event.data is not None  # noqa: S101  comments are not rewritten
        data = dict(event.data)
        if self.begun and "prompt_progress" in data:
            return None
        if "timings" in data:
            data["timings"] = sums.timings(self.before_timings, data["timings"], ending=self.ending)
        if self._prompt_tokens is not None:
            data["tokens_evaluated"] = self._prompt_tokens
        data["tokens_predicted"] = self.before + (0 if self.ending else data["tokens_predicted"])
        if not data["stop"]:
            return None if self.ending else data
        return self._last(data)

    def _last(self, data: Json) -> Json:
        """The last event repeats the request, in which the text so far was put."""
        fields = self.asked.fields
        text = self.text
        if self.begun and isinstance(data["prompt"], str):
            data["prompt"] = data["prompt"].removesuffix(text[: self._characters_before])
            limit = self.limit
            limits = {} if limit is None else {"n_predict": limit, "max_tokens": limit}
            grammar = {"generation_prompt": fields.get("generation_prompt") or ""}
            data["generation_settings"] = {**data["generation_settings"], **limits, **grammar}
        data["has_new_line"] = data["has_new_line"] or "\n" in text
        if self.ending:
            data |= {"content": "", "tokens": [], "stop_type": "limit", "stopping_word": ""}
            if self.stopped:
                stop = fields["stop"]
                words = [stop] if isinstance(stop, str) else stop
                data |= {"stop_type": "word", "stopping_word": words[0] if len(words) == 1 else ""}
        return data
