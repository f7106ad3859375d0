"""Requests to which the streamed and the unstreamed answer are compared, and what is compared of the answers.

The real suite asks llama-server both ways; the unit tests use what was recorded from it:

    python -m tests.support.assembly PORT PORT PORT

records them, from servers with SERVER_FLAGS of the demo model, its thinking variant and, with
TOOL_TEMPLATE as --chat-template-file, the demo model again.
"""

import http.client
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.proxy.assembly import Assembly, Unsure, as_stream

TOOL_TEMPLATE = Path(__file__).parent / "tools.jinja"
RECORDED = Path(__file__).parents[1] / "unit" / "proxy" / "assembly" / "recorded.json"
SERVER_FLAGS = [
    "-t",
    "1",
    "-np",
    "4",
    "-c",
    "8192",
    "--no-ui",
    "--jinja",
    "--threads-http",
    "16",
    "--cache-ram",
    "0",
    "--no-cache-prompt",
]

_LIMIT = 40  # tokens, where a case says nothing
CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
MESSAGES, RESPONSES, INFILL = "/v1/messages", "/v1/responses", "/infill"

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
_TALK = [{"role": "user", "content": 'Say "äöü 日本語" \\ to me\nnow'}]
_BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": _TALK, "temperature": 0, "seed": 7, "max_tokens": _LIMIT},
    TEXT: {"prompt": "Once upon", "temperature": 0, "seed": 7, "max_tokens": _LIMIT},
    NATIVE: {"prompt": "Once upon", "temperature": 0, "seed": 7, "n_predict": _LIMIT},
    MESSAGES: {"messages": _TALK, "temperature": 0, "max_tokens": _LIMIT},
    RESPONSES: {"input": "Tell me a story.", "temperature": 0, "seed": 7, "max_output_tokens": _LIMIT},
    INFILL: {"input_prefix": "The cat", "input_suffix": ".", "temperature": 0, "seed": 7, "n_predict": 20},
}
_ALIAS = {"/chat/completions": CHAT, "/completions": NATIVE, "/responses": RESPONSES}

_TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It.", "parameters": _SCHEMA}}]
_BEGUN = "<tool_call>\n"  # the demo model would not begin a call by itself (tools.jinja)
_CALLED = "</tool_call>"  # nor would it end after one
_CALL = {
    "messages": [*_TALK, {"role": "assistant", "content": _BEGUN}],
    "tools": _TOOLS,
    "tool_choice": "required",
    "stop": [_CALLED],
}
_USE = {
    "messages": [*_TALK, {"role": "assistant", "content": _BEGUN}],
    "tools": [{"name": "weather", "description": "It.", "input_schema": _SCHEMA}],
    "tool_choice": {"type": "any"},
    "stop_sequences": [_CALLED],
}
_FUNCTION_CALL = {
    "input": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "type": "message", "content": [{"type": "output_text", "text": _BEGUN}]},
    ],
    "tools": [{"type": "function", "name": "weather", "description": "It.", "parameters": _SCHEMA}],
    "tool_choice": "required",
    "stop": [_CALLED],
}
_HOT = {"temperature": 2.5, "top_k": 0, "top_p": 1, "min_p": 0}
KANJI = {"grammar": 'root ::= "日本語日本語"'}  # several tokens a character
_ODD = {"grammar": r'root ::= "\"quoted\" \\ back\n\t" "\x01" "ü日🙂"'}
_LONG = "word " * 9000  # beyond the context


@dataclass(frozen=True, slots=True)
class Case:
    """One request. ``sure``: the streamed answer must be believed; else it may be, if it equals."""

    name: str
    path: str
    options: dict[str, Any]
    sure: bool = True

    def body(self) -> dict[str, Any]:
        body = {**_BASE[_ALIAS.get(self.path, self.path)], **self.options}
        return {name: value for name, value in body.items() if value is not ...}


CASES = (
    Case("plain", CHAT, {}),
    Case("alias", "/chat/completions", {}),
    Case("ends itself", CHAT, {"max_tokens": ...}),
    Case("one token", CHAT, {"max_tokens": 1}),
    Case("no token", CHAT, {"max_tokens": 0}),
    Case("several", CHAT, {"n": 3, **_HOT}),
    Case("stop string", CHAT, {"stop": "the", "max_tokens": 200}),
    Case("stop strings", CHAT, {"stop": [".", "!", "?"]}),
    Case("hot", CHAT, _HOT),
    Case("escapes", CHAT, _ODD),
    Case("cut in a character", CHAT, {**KANJI, "max_tokens": 4}, sure=False),
    Case("JSON object", CHAT, {"response_format": {"type": "json_object"}, "max_tokens": 30}),
    Case(
        "JSON schema",
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}, "max_tokens": 200},
    ),
    Case("tools, free", CHAT, {"tools": _TOOLS}),
    Case("tool call", CHAT, {**_CALL, "max_tokens": 400}),
    Case("tool call cut", CHAT, {**_CALL, "max_tokens": 30}, sure=False),
    Case("tool calls", CHAT, {**_CALL, "stop": ..., "max_tokens": 400}, sure=False),
    Case("reasoning not split off", CHAT, {"reasoning_format": "none"}),
    Case("prefilled", CHAT, {"messages": [*_TALK, {"role": "assistant", "content": "Once upon"}]}),
    Case("usage asked for", CHAT, {"stream_options": {"include_usage": True}}),
    Case("timings asked for", CHAT, {"timings_per_token": True}),
    Case("progress asked for", CHAT, {"return_progress": True}),
    Case("stream null", CHAT, {"stream": None}),
    Case("stream false", CHAT, {"stream": False}),
    Case("fills the context", CHAT, {"ignore_eos": True, "max_tokens": ...}),
    Case("too long", CHAT, {"messages": [{"role": "user", "content": _LONG}]}),
    Case("bad grammar", CHAT, {"grammar": "root ::= ["}),
    Case("bad messages", CHAT, {"messages": 5}),
    Case("bad limit", CHAT, {"max_tokens": "x"}),
    Case("plain", TEXT, {}),
    Case("ends itself", TEXT, {"max_tokens": ...}),
    Case("no token", TEXT, {"max_tokens": 0}),
    Case("several", TEXT, {"n": 3, **_HOT}),
    Case("prompts", TEXT, {"prompt": ["Once", "My cat"]}),
    Case("tokens", TEXT, {"prompt": [72, 105]}),
    Case("stop", TEXT, {"stop": ["."]}),
    Case("logprobs", TEXT, {"logprobs": 3}),
    Case("logprobs hot", TEXT, {"logprobs": 2, **_HOT}),
    Case("probabilities after sampling", TEXT, {"logprobs": 2, "post_sampling_probs": True}),
    Case("characters of several tokens", TEXT, {**KANJI, "logprobs": 1}),
    Case("cut in a character", TEXT, {**KANJI, "max_tokens": 4}, sure=False),
    Case("echo", TEXT, {"echo": True}),
    Case("escapes", TEXT, _ODD),
    Case("plain", NATIVE, {}),
    Case("alias", "/completions", {}),
    Case("ends itself", NATIVE, {"n_predict": ...}),
    Case("no token", NATIVE, {"n_predict": 0}),
    Case("several", NATIVE, {"n": 2, **_HOT}),
    Case("prompts", NATIVE, {"prompt": ["Once", [72, 105], "My cat"]}),
    Case("one prompt in a list", NATIVE, {"prompt": ["Once"]}),
    Case("empty prompt", NATIVE, {"prompt": ""}),
    Case("stop", NATIVE, {"stop": ["the"], "n_predict": 200}),
    Case("n_probs", NATIVE, {"n_probs": 3}),
    Case("probabilities after sampling", NATIVE, {"n_probs": 3, "post_sampling_probs": True}),
    Case("cut in a character", NATIVE, {**KANJI, "n_predict": 4, "n_probs": 1}, sure=False),
    Case("own words as text", NATIVE, {"prompt": 'a "stream":true, "n_probs":9', "stop": ['"stream":true']}),
    Case("schema", NATIVE, {"json_schema": _SCHEMA, "n_predict": 200}),
    Case("timings asked for", NATIVE, {"timings_per_token": True}),
    Case("progress asked for", NATIVE, {"return_progress": True}),
    Case("bad prompt", NATIVE, {"prompt": 5}),
    Case("plain", INFILL, {}),
    Case("context given", INFILL, {"prompt": "It", "input_extra": [{"filename": "a", "text": "b"}]}),
    Case("no suffix", INFILL, {"input_suffix": ...}),
    Case("plain", MESSAGES, {}),
    Case("ends itself", MESSAGES, {"max_tokens": 900}),
    Case("stop sequence", MESSAGES, {"stop_sequences": ["the"], "max_tokens": 200}),
    Case("system", MESSAGES, {"system": [{"type": "text", "text": "Be short."}]}),
    Case("tool use", MESSAGES, {**_USE, "max_tokens": 400}),
    Case("tool use cut", MESSAGES, {**_USE, "max_tokens": 30}, sure=False),
    Case("no token", MESSAGES, {"max_tokens": 0}),
    Case("too long", MESSAGES, {"messages": [{"role": "user", "content": _LONG}]}),
    Case("plain", RESPONSES, {}),
    Case("alias", "/responses", {}),
    Case("ends itself", RESPONSES, {"max_output_tokens": ...}),
    Case("instructions", RESPONSES, {"instructions": "Be short."}),
    Case("hot", RESPONSES, _HOT),
    Case("cut in a character", RESPONSES, {**KANJI, "max_output_tokens": 4}, sure=False),
    Case("function call", RESPONSES, {**_FUNCTION_CALL, "max_output_tokens": 400}),
    Case("function call cut", RESPONSES, {**_FUNCTION_CALL, "max_output_tokens": 30}, sure=False),
    Case("no input", RESPONSES, {"input": ...}),
)

_VOLATILE = (
    (re.compile(r'"(created|created_at|completed_at)":\d+'), r'"\1":0'),
    (re.compile(r'"timings":\{"cache_n":\d+,"prompt_n":\d+,[^{}]*\}'), '"timings":{}'),
    (re.compile(r'"id":"(chatcmpl-|resp_|msg_|rs_|fc_)?[0-9A-Za-z]{32}"'), r'"id":"\1"'),
    (re.compile(r'"call_id":"call_[0-9A-Za-z]{32}"'), '"call_id":"call_"'),
    (re.compile(r'"id_slot":\d+'), '"id_slot":0'),
)


def normalised(answer: bytes) -> str:
    """The JSON text less what differs from one asking to the next: time, random ids, the slot."""
    text = answer.decode()
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return text


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    streamed: bool
    body: bytes


def ask(port: int, path: str, body: bytes) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        streamed = response.headers.get_content_type() == "text/event-stream"
        return Answer(response.status, streamed, response.read())
    finally:
        connection.close()


def taken_together(path: str, parsed: dict[str, Any], stream: bytes) -> tuple[int, str]:
    assembly = Assembly(path.encode(), parsed)
    assembly.add(stream)
    status, body = assembly.result()
    return status, normalised(body)


def recorded_from(name: str, case: Case) -> bool:
    """Each case from the server that makes most of it."""
    if "tools" in case.options:
        return name == "tools"
    chats = {CHAT, MESSAGES, RESPONSES}
    return name == "plain" or (name == "thinking" and _ALIAS.get(case.path, case.path) in chats)


def record(ports: dict[str, int]) -> None:
    """Both answers to every case that streams not too much, shortened, and whether the streamed one is believed."""
    rows = []
    for name, case in [(name, case) for name in ports for case in CASES if recorded_from(name, case)]:
        parsed = {key: 6 if value == _LIMIT else value for key, value in case.body().items()}
        body = json.dumps(parsed).encode()
        asked = as_stream(case.path.encode(), body, parsed)
        streamed = ask(ports[name], case.path, asked) if asked else None
        most = 40_000 if name == "tools" else 12_000  # bytes
        if streamed is None or not streamed.streamed or len(streamed.body) > most:
            continue
        try:
            sure = bool(taken_together(case.path, parsed, streamed.body))
        except Unsure:
            sure = False
        row = {"name": f"{case.path} {case.name}, {name}", "path": case.path, "body": parsed, "sure": sure}
        direct = ask(ports[name], case.path, body)
        rows.append({**row, "stream": streamed.body.decode(), "direct": direct.body.decode()})
    RECORDED.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    record(dict(zip(("plain", "thinking", "tools"), map(int, sys.argv[1:]), strict=True)))
