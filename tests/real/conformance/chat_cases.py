"""Chats in their three dialects: OpenAI's chat completions and responses, Anthropic's messages."""

from collections.abc import Iterator
from typing import Any

from tests.real.conformance.case import THINKING, TOOLS, Case, both, each

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"

TURN = {"role": "user", "content": "Hello! Tell me a story."}
GREEDY = {"temperature": 0, "seed": 7, "max_tokens": 16}
HOT = {"temperature": 1.5, "seed": 11, "top_k": 0}
WILD = {
    f"wild-{seed}": {"temperature": 9, "seed": seed, "top_k": 0, "top_p": 1, "min_p": 0} for seed in range(4)
}
BASE: dict[str, Any] = {"messages": [TURN], **GREEDY}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2.5, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
LISTED = {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": WEATHER}
OTHER = {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}}
# The demo model begins no call by itself, nor does it end after one: so it is begun for it, and stopped.
BEGUN, CALLED = "<tool_call>\n", "</tool_call>"
CALL = {
    "messages": [TURN, {"role": "assistant", "content": BEGUN}],
    "tool_choice": "required",
    "tools": [TOOL],
    "stop": [CALLED],
    "max_tokens": 300,
}
QUOTED = r'root ::= "\"q\" \\ /" "\x01\x08\x1f\x7f" "é日🙂" "\r\n\t" "</script>"'
INDENTED = r'root ::= "a\n  b\nc d e\nf"'
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOO_LONG = "word " * 3000  # more tokens than a slot holds


def _format(schema: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own-end": {"max_tokens": ...},
    "one-token": {"max_tokens": 1},
    "no-token": {"max_tokens": 0},
    "max-completion-tokens": {"max_tokens": ..., "max_completion_tokens": 5},
    "system": {"messages": [{"role": "system", "content": "Be short."}, TURN]},
    "developer": {"messages": [{"role": "developer", "content": "Be short."}, TURN]},
    "long-talk": {"messages": [TURN, {"role": "assistant", "content": "No."}] * 4 + [TURN]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}] * 2}]},
    "unicode": {"messages": [{"role": "user", "content": "äöü 日本語 🙂 \u2028 \x07 é"}]},
    "empty-content": {"messages": [{"role": "user", "content": ""}]},
    "stop-string": {"stop": " my cat", "max_tokens": 100},
    "stop-strings": {"stop": [".", "!"], "max_tokens": 100},
    "stop-half-seen": {"stop": ["every neverending"], "max_tokens": 40},
    "stream-false": {"stream": False},
    "stream-options-null": {"stream_options": None, "timings_per_token": False, "n": 1},
    "stream-options-empty": {"stream_options": {}},
    "hot": HOT,
    **WILD,
    "hot-sampling": {**HOT, "top_p": 0.9, "min_p": 0.01, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    "two": {"n": 2, **HOT},
    "three-greedy": {"n": 3, "max_tokens": 6},
    "logprobs": {"logprobs": True},
    "logprobs-top": {"logprobs": True, "top_logprobs": 3, "max_tokens": 5},
    "logprobs-to-the-end": {"logprobs": True, "top_logprobs": 1, "grammar": 'root ::= "yes"'},
    "logprobs-hot": {"logprobs": True, "top_logprobs": 2, **HOT},
    "n-probs": {"n_probs": 2, "max_tokens": 4},
    "logit-bias": {"logit_bias": {"300": 5, "301": -100}},
    "json-object": {"response_format": {"type": "json_object"}, "max_tokens": 40},
    "json-schema": {**_format(SCHEMA), "max_tokens": 200},
    "json-schema-array": {**_format(LISTED), "max_tokens": 100},
    "json-schema-cut": {**_format(SCHEMA), "max_tokens": 5},
    "json-schema-own-spelling": {"json_schema": SCHEMA, "max_tokens": 200},
    "grammar": {"grammar": 'root ::= "yes" | "no"'},
    "escapes": {"grammar": QUOTED, "max_tokens": 60},
    "characters-of-several-tokens": {"grammar": 'root ::= "日本語🙂"', "max_tokens": 60},
    "cut-in-a-character": {"grammar": 'root ::= "日本語🙂"', "max_tokens": 4},
    "prefilled": {"messages": [TURN, {"role": "assistant", "content": "Once upon"}]},
    "continued": {
        "messages": [TURN, {"role": "assistant", "content": "Once upon"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "usage": {"stream_options": {"include_usage": True}},
    "no-usage": {"stream_options": {"include_usage": False}},
    "timings": {"timings_per_token": True, "max_tokens": 4},
    "progress": {"return_progress": True, "max_tokens": 4},
    "verbose": {"verbose": True, "max_tokens": 4},
    "tokens-returned": {"return_tokens": True, "max_tokens": 4},
    "other-model-name": {"model": "gpt-4o"},
    "unknown-option": {"nosuch": {"a": [1, None]}},
    "nulls": {"stop": None, "tools": None, "n": None, "logprobs": None, "response_format": None},
    "tools-not-used": {"tools": [TOOL], "tool_choice": "auto"},
    "template-arguments": {"chat_template_kwargs": {"enable_thinking": False}},
    "samplers": {"samplers": ["top_k", "temperature"], "top_k": 1},
    "indented": {"n_indent": 2, "grammar": INDENTED, "max_tokens": 40},
    "fills-the-context": {
        "ignore_eos": True,
        "max_tokens": ...,
        "messages": [{**TURN, "content": "a " * 980}],
    },
}
REFUSED: dict[str, dict[str, Any]] = {
    "no-messages": {"messages": ...},
    "messages-a-number": {"messages": 5},
    "messages-empty-object": {"messages": [{}]},
    "no-such-content": {"messages": [{"role": "user", "content": 5}]},
    "max-tokens-a-word": {"max_tokens": "many"},
    "temperature-a-word": {"temperature": "hot"},
    "bad-grammar": {"grammar": "root ::= ["},
    "bad-format": {"response_format": {"type": "nosuch"}},
    "bad-tool-choice": {"tools": [TOOL], "tool_choice": "nosuch"},
    "bad-continuation": {"continue_final_message": True},
    "too-long": {"messages": [{"role": "user", "content": TOO_LONG}]},
}
FAILED: dict[str, dict[str, Any]] = {  # what llama-server calls a fault of its own
    "grammar-and-schema": {"grammar": "root ::= 'a'", "json_schema": SCHEMA},
    "role-null": {"messages": [{"role": None, "content": "a"}]},
    "image-without-eyes": {"messages": [{"role": "user", "content": [IMAGE]}]},
}
CALLS: dict[str, dict[str, Any]] = {
    "call": CALL,
    "call-cut": {**CALL, "max_tokens": 20},
    "calls-and-text": {**CALL, "stop": ..., "max_tokens": 120},
    "of-two": {**CALL, "tools": [OTHER, TOOL]},
    "parallel": {**CALL, "parallel_tool_calls": True},
    "several": {**CALL, "n": 2},
    "auto": {"tools": [TOOL], "tool_choice": "auto"},
    "none": {"tools": [TOOL], "tool_choice": "none"},
    "answered": {
        "tools": [TOOL],
        "messages": [
            TURN,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "noop", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"a": 1}'},
        ],
    },
}
NAMED = {**CALL, "tool_choice": {"type": "function", "function": {"name": "weather"}}}
THOUGHTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "to-the-end": {"max_tokens": 400},
    "not-split-off": {"reasoning_format": "none"},
    "legacy": {"reasoning_format": "deepseek-legacy"},
    "legacy-to-the-end": {"reasoning_format": "deepseek-legacy", "max_tokens": 400},
    "without": {"chat_template_kwargs": {"enable_thinking": False}},
    "several": {"n": 2},
    "budget": {"thinking_budget_tokens": 3, "max_tokens": 60},
    "given-back": {
        "messages": [TURN, {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm."}, TURN]
    },
}

ANTHROPIC = {"messages": [TURN], "temperature": 0, "max_tokens": 16}
USE = {
    "messages": [TURN, {"role": "assistant", "content": BEGUN}],
    "tools": [{"name": "weather", "description": "The weather.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any"},
    "stop_sequences": [CALLED],
    "max_tokens": 300,
}
MESSAGES_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own-end": {"max_tokens": 400},
    "one-token": {"max_tokens": 1},
    "system": {"system": "Be short."},
    "stream-false": {"stream": False},
    "system-parts": {"system": [{"type": "text", "text": "Be short."}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    "stop-sequence": {"stop_sequences": [" my cat"], "max_tokens": 100},
    "stop-half-seen": {"stop_sequences": ["every neverending"], "max_tokens": 40},
    "unicode": {"messages": [{"role": "user", "content": "日本語 🙂"}]},
    "top-k": {"top_k": 1, "top_p": 0.5, "metadata": {"user_id": "me"}},
}
INPUT = {"input": "Hello! Tell me a story.", "temperature": 0, "seed": 7, "max_output_tokens": 16}
FUNCTION = {
    "input": [
        TURN,
        {
            "role": "assistant",
            "type": "message",
            "content": [{"type": "output_text", "text": BEGUN}],
        },
    ],
    "tools": [{"type": "function", **WEATHER}],
    "tool_choice": "required",
    "stop": [CALLED],
    "max_output_tokens": 300,
}
RESPONSES_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own-end": {"max_output_tokens": ...},
    "one-token": {"max_output_tokens": 1},
    "instructions": {"instructions": "Be short."},
    "stream-false": {"stream": False},
    **WILD,
    "items": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]},
    "hot": HOT,
    "escapes": {"grammar": QUOTED, "max_output_tokens": 60},
    "several": {"n": 2},
    "stop-half-seen": {"stop": ["every neverending"], "max_output_tokens": 40},
    "cut-in-a-character": {"grammar": 'root ::= "日本語"', "max_output_tokens": 4},
    "format": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
}


def cases() -> Iterator[Case]:
    yield from each("chat", CHAT, BASE, OPTIONS)
    yield from each("chat/refused", CHAT, BASE, REFUSED, status=400)
    yield from both("chat/refused/n-too-many", CHAT, {**BASE, "n": 9}, status=400, differs="more than slots")
    yield from each("chat/failed", CHAT, BASE, FAILED, status=500)
    yield from each("chat/tools", CHAT, BASE, CALLS, server=TOOLS)
    yield from both(
        "chat/tools/logprobs", CHAT, {**BASE, **CALL, "logprobs": True}, server=TOOLS, stream_status=400
    )
    yield from both(
        "chat/tools/one-named", CHAT, {**BASE, **NAMED}, server=TOOLS, status=500, stream_status=200
    )
    yield from each("chat/thinking", CHAT, BASE, THOUGHTS, server=THINKING)
    yield from both("chat/without-v1", "/chat/completions", BASE)
    yield from each("messages", MESSAGES, ANTHROPIC, MESSAGES_OPTIONS)
    yield from each("messages", MESSAGES, ANTHROPIC, {"tools": USE}, server=TOOLS)
    yield from each("messages", MESSAGES, ANTHROPIC, {"thinking": {"max_tokens": 60}}, server=THINKING)
    yield from each("messages/refused", MESSAGES, ANTHROPIC, {"no-messages": {"messages": ...}}, status=500)
    yield from each("responses", RESPONSES, INPUT, RESPONSES_OPTIONS)
    yield from each("responses", RESPONSES, INPUT, {"function": FUNCTION}, server=TOOLS)
    yield from each("responses", RESPONSES, INPUT, {"thinking": {}}, server=THINKING)
    yield from each("responses/refused", RESPONSES, INPUT, {"no-input": {"input": ...}}, status=400)
    yield from both("responses/without-v1", "/responses", INPUT)
    for name, path, body in (
        ("messages", "/v1/messages/count_tokens", {"messages": [TURN]}),
        ("chat", "/v1/chat/completions/input_tokens", {"messages": [TURN]}),
        ("chat-without-v1", "/chat/completions/input_tokens", {"messages": [TURN]}),
        ("responses", "/v1/responses/input_tokens", {"input": "Hello"}),
        ("responses-without-v1", "/responses/input_tokens", {"input": "Hello"}),
    ):
        yield Case(id=f"count-tokens/{name}", path=path, body=body)
    yield Case(id="count-tokens/none", path="/v1/messages/count_tokens", body={"max_tokens": 1}, status=500)
    yield Case(
        id="chat/control-of-nothing",
        path="/v1/chat/completions/control",
        body={"id": "chatcmpl-none", "action": "reasoning_end"},
    )
