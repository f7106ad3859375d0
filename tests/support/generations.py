"""A llama-server that always says the same: its event streams, token by token, without a model.

It reads how far an answer has come from the request, as the real one does, and refuses what the real one
refuses. That its streams are the real one's is tested against recorded ones.
"""

import json
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

PROMPT_TOKENS = 13
END_TOKEN = 617
END_OF_THINKING = ("</think>", "\n")  # tokens that no stream shows


@dataclass(frozen=True)
class Generation:
    """``thinking`` and ``text`` are the tokens of the whole answer; ``name`` marks this generation's ids."""

    text: tuple[str, ...]
    thinking: tuple[str, ...] = ()
    name: str = "first"
    end: str = "stop"  # or length: what is said when all tokens have been made
    ids: tuple[int, ...] = ()  # of the tokens of the text, as a native stream has them

    def answer(self, path: str, body: bytes) -> bytes:
        fields = json.loads(body)
        assert fields["stream"] is True
        return b"".join(STREAMS[path](self, fields))

    def rest(self, thinking: str, text: str, limit: int | None) -> "Rest":
        """What follows this beginning; it must end between two tokens."""
        hidden = [("hidden", token) for token in END_OF_THINKING] if self.thinking else []
        shown = [*(("thinking", token) for token in self.thinking), *hidden]
        at = len(shown) if text else _position(self.thinking, thinking)
        at += _position(self.text, text)
        tokens = [*shown, *(("text", token) for token in self.text)]
        left = tokens[at:]
        made = left if limit is None or limit < 0 else left[: max(1, limit)]
        ended = self.end if len(made) == len(left) else "length"
        if not made:
            made = [("end", "")]
        return Rest(tuple(made), at, ended)


@dataclass(frozen=True)
class Rest:
    tokens: tuple[tuple[str, str], ...]
    before: int
    end: str

    @property
    def made(self) -> int:
        return len(self.tokens)

    @property
    def prompt(self) -> int:
        return PROMPT_TOKENS + self.before


def _position(tokens: tuple[str, ...], said: str) -> int:
    ends = list(accumulate(map(len, tokens), initial=0))
    assert "".join(tokens).startswith(said), (tokens, said)
    assert len(said) in ends, f"cut within a token: {said!r}"
    return ends.index(len(said))


def _limit(fields: dict[str, Any], *names: str) -> int | None:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _event(data: Any, name: str = "") -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % text


def _timings(rest: Rest, made: int) -> dict[str, Any]:
    per_token = made / max(1, made - 1)
    return {
        "cache_n": 0,
        "prompt_n": rest.prompt,
        "prompt_ms": 2.0,
        "prompt_per_token_ms": 2.0 / rest.prompt,
        "prompt_per_second": 500.0 * rest.prompt,
        "predicted_n": made,
        "predicted_ms": float(made),
        "predicted_per_token_ms": per_token,
        "predicted_per_second": 1000.0 / per_token,
    }


def _usage(rest: Rest) -> dict[str, Any]:
    total = rest.prompt + rest.made
    return {
        "completion_tokens": rest.made,
        "prompt_tokens": rest.prompt,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _said(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The thinking and the text of a trailing assistant message."""
    last = messages[-1]
    if last["role"] != "assistant":
        return "", ""
    return last.get("reasoning_content") or "", last["content"]


def _chat(generation: Generation, fields: dict[str, Any]) -> list[bytes]:
    thinking, text = _said(fields["messages"])
    assert bool(text or thinking) == bool(fields.get("continue_final_message")), "it would be echoed"
    assert fields.get("add_generation_prompt", True) != bool(fields.get("continue_final_message"))
    rest = generation.rest(thinking, text, _limit(fields, "n_predict", "max_completion_tokens", "max_tokens"))
    each = fields.get("timings_per_token")

    def chunk(delta: Any, reason: str | None = None, **more: Any) -> dict[str, Any]:
        return {
            "choices": [{"finish_reason": reason, "index": 0, "delta": delta}],
            "created": 1795263884,
            "id": f"chatcmpl-{generation.name}",
            "model": "demo",
            "system_fingerprint": "b0-0c1e570",
            "object": "chat.completion.chunk",
            **more,
        }

    out = [chunk({"role": "assistant", "content": None})]
    for made, (kind, token) in enumerate(rest.tokens, 1):
        if token and kind != "hidden":
            delta = {"reasoning_content" if kind == "thinking" else "content": token}
            out.append(chunk(delta, **({"timings": _timings(rest, made)} if each else {})))
    out.append(chunk({}, rest.end))
    if fields.get("stream_options", {}).get("include_usage"):
        out.append({**chunk({}), "choices": [], "usage": _usage(rest)})
    out[-1]["timings"] = _timings(rest, rest.made)
    return [*map(_event, out), b"data: [DONE]\n\n"]


def _prompt(generation: Generation, fields: dict[str, Any]) -> Rest:
    prompt = fields["prompt"]
    text = ""
    if isinstance(prompt, str):
        assert prompt.startswith("The cat")
        text = prompt.removeprefix("The cat")
    else:
        assert prompt[0] == "The cat"
        text = "".join(generation.text[generation.ids.index(token)] for token in prompt[1:])
    return generation.rest("", text, _limit(fields, "n_predict", "max_completion_tokens", "max_tokens"))


def _text(generation: Generation, fields: dict[str, Any]) -> list[bytes]:
    rest = _prompt(generation, fields)

    def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
        return {
            "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}],
            "created": 1795263884,
            "model": "demo",
            "system_fingerprint": "b0-0c1e570",
            "object": "text_completion",
        }

    name = {"id": f"chatcmpl-{generation.name}"}
    out = [{**chunk(token), **name} for _, token in rest.tokens]
    out.append({**chunk("", rest.end), "usage": _usage(rest), **name, "timings": _timings(rest, rest.made)})
    return [*map(_event, out), b"data: [DONE]\n\n"]


def _native(generation: Generation, fields: dict[str, Any]) -> list[bytes]:
    rest = _prompt(generation, fields)
    each = fields.get("timings_per_token")
    out = []
    for made, (_, token) in enumerate(rest.tokens, 1):
        number = rest.before + made - 1
        out.append({
            "index": 0,
            "content": token,
            "tokens": [generation.ids[number] if token else END_TOKEN],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": made,
            "tokens_evaluated": rest.prompt,
            **({"timings": _timings(rest, made)} if each else {}),
        })  # fmt: skip
    limit = _limit(fields, "n_predict", "max_completion_tokens", "max_tokens")
    made_before = "".join(generation.text[: rest.before])
    out.append({
        "index": 0,
        "content": "",
        "tokens": [],
        "id_slot": 1,
        "stop": True,
        "model": "demo",
        "tokens_predicted": rest.made,
        "tokens_evaluated": rest.prompt,
        "generation_settings": {"max_tokens": limit, "n_predict": limit, "generation_prompt": ""},
        "prompt": "<|endoftext|>The cat" + made_before,
        "has_new_line": False,
        "truncated": False,
        "stop_type": {"stop": "eos", "length": "limit"}[rest.end],
        "stopping_word": "",
        "tokens_cached": rest.prompt + rest.made - 1,
        "timings": _timings(rest, rest.made),
    })  # fmt: skip
    return [_event(event) for event in out]


def _messages(generation: Generation, fields: dict[str, Any]) -> list[bytes]:
    thinking, text = _said(fields["messages"])
    rest = generation.rest(thinking, text, fields.get("max_tokens", 4096))
    usage = {"cache_read_input_tokens": 0, "input_tokens": rest.prompt, "output_tokens": 0}
    start = {"id": f"chatcmpl-{generation.name}", "type": "message", "role": "assistant", "content": []}
    start |= {"model": "demo", "stop_reason": None, "stop_sequence": None, "usage": usage}
    out: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    echo = {"thinking": thinking + ("\n" if text and thinking else ""), "text": text}
    blocks: dict[str, int] = {}

    def say(kind: str, piece: str) -> None:
        if not piece:
            return
        if kind not in blocks:
            blocks[kind] = len(blocks)
            block = {"type": kind, kind: ""}
            out.append({"type": "content_block_start", "index": blocks[kind], "content_block": block})
        delta = {"type": f"{kind}_delta", kind: piece}
        out.append({"type": "content_block_delta", "index": blocks[kind], "delta": delta})

    for number, (kind, token) in enumerate(rest.tokens):
        pieces = {"thinking": "", "text": ""} | ({} if number else echo)
        if kind in pieces:
            pieces[kind] += token
        for each, piece in pieces.items():
            say(each, piece)
    if "thinking" in blocks:
        delta = {"type": "signature_delta", "signature": ""}
        out.append({"type": "content_block_delta", "index": blocks["thinking"], "delta": delta})
    out += [{"type": "content_block_stop", "index": index} for index in blocks.values()]
    reason = {"stop_reason": {"stop": "end_turn", "length": "max_tokens"}[rest.end], "stop_sequence": None}
    out.append({"type": "message_delta", "delta": reason, "usage": {"output_tokens": rest.made}})
    out.append({"type": "message_stop"})
    return [_event(event, event["type"]) for event in out]


def _responses(generation: Generation, fields: dict[str, Any]) -> list[bytes]:
    said = {"message": "", "reasoning": ""}
    items = [] if isinstance(fields["input"], str) else fields["input"]
    for item in items:
        if item.get("type") in said:
            said[item["type"]] = item["content"][0]["text"]
    assert any(said.values()) == bool(fields.get("continue_final_message"))
    rest = generation.rest(said["reasoning"], said["message"], fields.get("max_output_tokens"))
    name = generation.name
    ids = {"message": f"msg_{name}", "reasoning": f"rs_{name}"}
    response = {"id": f"resp_{name}", "object": "response", "status": "in_progress"}
    out: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
    ]
    added = set()
    for token_kind, token in rest.tokens:
        kind = "reasoning" if token_kind == "thinking" else "message"
        if not token or token_kind == "hidden":
            continue
        if kind not in added:
            added.add(kind)
            out += _opening(kind, ids[kind])
        if kind == "message":
            out.append({"type": "response.output_text.delta", "item_id": ids[kind], "delta": token})
        else:
            out.append({"type": "response.reasoning_text.delta", "delta": token, "item_id": ids[kind]})
        said[kind] += token
    output = []
    if said["reasoning"]:
        tail = "\n" if said["message"] and rest.before else ""
        part: dict[str, Any] = {"text": said["reasoning"] + tail, "type": "reasoning_text"}
        item = {"id": ids["reasoning"], "summary": [], "type": "reasoning", "content": [part]}
        item["encrypted_content"] = ""
        out.append({"type": "response.output_item.done", "item": item})
        output.append(item)
    if said["message"]:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": said["message"]}
        item = {
            "type": "message",
            "status": "completed",
            "id": ids["message"],
            "content": [part],
            "role": "assistant",
        }
        done = {"item_id": ids["message"], "text": said["message"]}
        out += [
            {"type": "response.output_text.done", **done},
            {"type": "response.content_part.done", "item_id": ids["message"], "part": part},
            {"type": "response.output_item.done", "item": item},
        ]
        output.append(item)
    usage = {"input_tokens": rest.prompt, "output_tokens": rest.made, "total_tokens": rest.prompt + rest.made}
    usage["input_tokens_details"] = {"cached_tokens": 0}
    whole = {"id": f"resp_{name}", "object": "response", "created_at": 1795263884, "status": "completed"}
    whole |= {"model": "demo", "output": output, "usage": usage}
    out.append({"type": "response.completed", "response": whole, "timings": _timings(rest, rest.made)})
    return [_event(event, event["type"]) for event in out]


def _opening(kind: str, name: str) -> list[dict[str, Any]]:
    if kind == "reasoning":
        item = {"id": name, "summary": [], "type": "reasoning", "content": []}
        item |= {"encrypted_content": "", "status": "in_progress"}
        return [{"type": "response.output_item.added", "item": item}]
    item = {"content": [], "id": name, "role": "assistant", "status": "in_progress", "type": "message"}
    part = {"type": "output_text", "text": ""}
    return [
        {"type": "response.output_item.added", "item": item},
        {"type": "response.content_part.added", "item_id": name, "part": part},
    ]


STREAMS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _text,
    "/completion": _native,
    "/v1/messages": _messages,
    "/v1/responses": _responses,
}
