"""One completion in its three forms: chat, OpenAI text and llama-server's own; streamed or whole."""

import enum
import time
from typing import TYPE_CHECKING

from tests.support.fake import text
from tests.support.fake.wire import Exchange, error_json

if TYPE_CHECKING:
    from tests.support.fake.routes import Router

DEFAULT_TOKENS = 8
PROGRESS_S = 0.1  # between two prompt_progress events, and between two steps of the counters


class Form(enum.Enum):
    CHAT = "chat"
    TEXT = "text"
    NATIVE = "native"


class Completion:
    """Generates the answer to one request, token by token, in a slot."""

    def __init__(self, router: "Router", exchange: Exchange, form: Form, body: dict[str, object]) -> None:
        self.router = router
        self.counters = router.counters
        self.exchange = exchange
        self.switches = exchange.switches
        self.form = form
        self.body = body
        self.options = router.process.options
        self.streaming = body.get("stream") is True
        self.id = f"chatcmpl-{time.monotonic_ns():032x}"
        self.created = int(time.time())
        self.prompt = ""
        self.partial = ""  # what a trailing assistant message already says
        self.base = ""
        self.start = 0  # tokens of the answer that the prompt already holds
        self.count = 0  # tokens to make now
        self.finish = "stop"

    def run(self) -> None:
        if not self._read_prompt():
            return
        self._take_slot()
        self.counters.add("processing")
        try:
            if self.streaming:
                self._stream()
            else:
                self._whole()
        finally:
            self.counters.add("processing", -1)
            self.router.slots.release()

    # -- before

    def _read_prompt(self) -> bool:
        """Work out the prompt and how much to make; False when an error has been answered."""
        given = self.body.get("messages" if self.form is Form.CHAT else "prompt")
        if given is None:
            name = "messages" if self.form is Form.CHAT else "prompt"
            self.exchange.error(400, f"'{name}' is required", "invalid_request_error")
            return False
        if self.form is Form.CHAT:
            messages = text.messages_in(self.body)
            self.prompt = text.render_chat(messages)
            if messages and messages[-1].get("role") == "assistant":
                self.partial = text.content_of(messages[-1])
                if messages[-1].get("tool_calls"):
                    message = "Cannot continue an assistant message that contains tool calls."
                    self.exchange.error(400, message, "invalid_request_error")
                    return False
            if self.body.get("continue_final_message") and self.body.get("add_generation_prompt", True):
                message = "Cannot set both add_generation_prompt and continue_final_message to true."
                self.exchange.error(400, message, "invalid_request_error")
                return False
        else:
            self.prompt = text.prompt_of(given)
        self.base, self.start = text.split_partial(self.prompt)
        return self._fits()

    def _fits(self) -> bool:
        limit = self.options.slot_context
        used = text.token_count(self.prompt)
        if used >= limit:
            error = error_json(400, "request exceeds the available context size", "exceed_context_size_error")
            error["error"] |= {"n_prompt_tokens": used, "n_ctx": limit}  # type: ignore[operator]
            self.exchange.json(error, 400)
            return False
        names = ("max_tokens", "max_completion_tokens", "n_predict")
        asked = next((self.body[name] for name in names if isinstance(self.body.get(name), int)), None)
        wanted = asked if isinstance(asked, int) and asked >= 0 else DEFAULT_TOKENS
        caps = [max(1, wanted), limit - used]  # 0 makes one token, as in llama-server
        if self.options.n_predict >= 0:
            caps.append(self.options.n_predict)
        self.count = min(caps)
        self.finish = "stop" if asked is None and self.count == DEFAULT_TOKENS else "length"
        return True

    def _take_slot(self) -> None:
        """Wait for a slot; a queued request gets no byte meanwhile."""
        if self.router.slots.acquire(blocking=False):
            return
        self.counters.add("deferred")
        try:
            while not self.router.slots.acquire(timeout=0.01):
                self.exchange.pause(0, streaming=False)
        finally:
            self.counters.add("deferred", -1)

    # -- generating

    def _process_prompt(self) -> None:
        """The prompt phase: counters move while it lasts, and events tell of it if asked."""
        total = text.token_count(self.prompt)
        steps = max(1, round(self.switches.first_token_delay_s / PROGRESS_S))
        for step in range(steps):
            self.exchange.pause(self.switches.first_token_delay_s / steps, streaming=self.streaming)
            done = total * (step + 1) // steps
            self.counters.add("prompt_tokens", done - total * step // steps)
            if self.switches.first_token_delay_s:
                self.counters.add("decodes")
            if self.streaming and self.body.get("return_progress"):
                progress = {"total": total, "cache": 0, "processed": done, "time_ms": 0}
                self.exchange.event(self._piece(None, 0, role=True) | {"prompt_progress": progress})

    def _before_token(self, index: int) -> None:
        """The time a token takes; `index` counts from 0 in this answer."""
        hangs = self.switches.hang in {"health_ok_tokens_hang", "loop"}
        if hangs and index >= self.switches.hang_after:
            self.exchange.hang(streaming=self.streaming)
        self.exchange.pause(self.switches.token_delay_s, streaming=self.streaming)
        self.counters.add("decodes")
        self.counters.add("predicted_tokens")

    def _whole(self) -> None:
        self._process_prompt()
        for index in range(self.count):
            self._before_token(index)
        self.exchange.json(self._final(self.partial + text.answer(self.base, self.count, self.start)))

    def _stream(self) -> None:
        exchange, switches = self.exchange, self.switches
        exchange.start_stream(self._ping_s())
        self._process_prompt()
        choices = self._choices()
        if self.form is Form.CHAT:
            for choice in range(choices):
                exchange.event(self._piece(None, choice, role=True))
        if self.partial and not self.body.get("continue_final_message"):
            exchange.event(self._piece(self.partial, 0))
        for index in range(self.count):
            if index == switches.error_event:
                exchange.event(error_json(500, "Context size has been exceeded.", "server_error"))
                exchange.end_stream()
                return
            self._before_token(index)
            for choice in range(choices):
                exchange.token_event(self._token_piece(index, choice))
        if not switches.no_done:
            self._end_events(choices)
        exchange.end_stream()

    def _end_events(self, choices: int) -> None:
        exchange = self.exchange
        if self.form is Form.NATIVE:
            exchange.event(self._final(""))
            return
        options = self.body.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        for choice in range(choices):
            last = self._piece("", choice, finish="tool_calls" if self.switches.tool_call else self.finish)
            is_bearer = choice == choices - 1 and not (self.form is Form.CHAT and wants_usage)
            extra = {"timings": self._timings()} if is_bearer else {}
            if is_bearer and self.form is Form.TEXT:
                extra["usage"] = self._usage()
            exchange.event(last | extra)
        if wants_usage and self.form is Form.CHAT:
            tail = {"choices": [], "usage": self._usage(), "timings": self._timings()}
            exchange.event(self._envelope(chunk=True) | tail)
        exchange.chunk(b"data: [DONE]\n\n")

    def _choices(self) -> int:
        n = self.body.get("n")
        return min(n, self.options.slots) if isinstance(n, int) and n > 1 and self.form is Form.CHAT else 1

    def _ping_s(self) -> float:
        value = self.body.get("sse_ping_interval", self.options.ping_s)
        return float(value) if isinstance(value, int | float) else 0.0

    # -- shapes

    def _envelope(self, *, chunk: bool) -> dict[str, object]:
        kind = (
            ("chat.completion.chunk" if chunk else "chat.completion")
            if self.form is Form.CHAT
            else "text_completion"
        )
        return {
            "created": self.created, "id": self.id, "model": self.options.alias,
            "system_fingerprint": "b1-fake", "object": kind,
        }  # fmt: skip

    def _token_piece(self, index: int, choice: int) -> dict[str, object]:
        if self.switches.tool_call and self.form is Form.CHAT:
            return self._tool_piece(index)
        piece = self._piece(text.token(self.base, self.start + index), choice)
        if self.form is Form.NATIVE:
            piece |= {"tokens": [self.start + index], "tokens_predicted": index + 1}
        return piece

    def _piece(
        self, content: str | None, choice: int, *, role: bool = False, finish: str | None = None
    ) -> dict[str, object]:
        """One streamed event with `content`."""
        if self.form is Form.NATIVE:
            counts = {"tokens_predicted": 0, "tokens_evaluated": text.token_count(self.prompt)}
            return {
                "index": 0,
                "content": content or "",
                "tokens": [],
                "stop": False,
                "id_slot": -1,
                **counts,
            }
        body: dict[str, object] = {"finish_reason": finish, "index": choice}
        if self.form is Form.TEXT:
            body |= {"text": content or "", "logprobs": None}
        elif role:
            body["delta"] = {"role": "assistant", "content": None}
        else:
            body["delta"] = {} if finish else {"content": content}
        return {"choices": [body], **self._envelope(chunk=True)}

    def _tool_piece(self, index: int) -> dict[str, object]:
        function: dict[str, object] = {"arguments": f'{{"a{index}":' if index == 0 else f"{index}"}
        call: dict[str, object] = {"index": 0, "function": function}
        if index == 0:
            function["name"] = "fake_tool"
            call |= {"id": "call_fake", "type": "function"}
        choice = {"finish_reason": None, "index": 0, "delta": {"tool_calls": [call]}}
        return {"choices": [choice], **self._envelope(chunk=True)}

    def _final(self, content: str) -> dict[str, object]:
        """The whole answer; for the native form also the last event of a stream."""
        if self.form is Form.NATIVE:
            return {
                "index": 0, "content": content, "tokens": [], "id_slot": 0, "stop": True,
                "model": self.options.alias, "tokens_predicted": self.count,
                "tokens_evaluated": text.token_count(self.prompt), "prompt": self.prompt, "truncated": False, "generation_settings": {"n_predict": self.count},
                "has_new_line": False, "stopping_word": "", "tokens_cached": 0,
                "stop_type": "limit" if self.finish == "length" else "eos", "timings": self._timings(),
            }  # fmt: skip
        choice: dict[str, object] = {"finish_reason": self.finish, "index": 0}
        if self.form is Form.CHAT:
            choice["message"] = {"role": "assistant", "content": content}
        else:
            choice |= {"text": content, "logprobs": None}
        head = {"choices": [choice], **self._envelope(chunk=False)}
        return head | {"usage": self._usage(), "timings": self._timings()}

    def _usage(self) -> dict[str, object]:
        prompt = text.token_count(self.prompt)
        details = {"cached_tokens": 0}
        return {
            "completion_tokens": self.count, "prompt_tokens": prompt,
            "total_tokens": prompt + self.count, "prompt_tokens_details": details,
        }  # fmt: skip

    def _timings(self) -> dict[str, object]:
        return {
            "cache_n": 0, "prompt_n": text.token_count(self.prompt), "prompt_ms": 1.0,
            "predicted_n": self.count, "predicted_ms": 1.0,
        }  # fmt: skip
