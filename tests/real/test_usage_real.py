"""`proxy.usage` on the real llama-server: read from the bytes is what their JSON says, on every endpoint."""

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from supervisor.proxy.usage import TAIL_BYTES, Meter, Usage, of_body, of_events
from tests.support.assembly import CASES, TOOL_TEMPLATE
from tests.support.bare_server import server

pytestmark = pytest.mark.real

FLAGS = [
    "-t",
    "1",
    "-np",
    "2",
    "-c",
    "4096",
    "--threads-http",
    "16",
    "--cache-ram",
    "0",
    "--no-ui",
    "--alias",
    "demo",
]
TALK = [{"role": "user", "content": 'Say {"usage":{"prompt_tokens":1}} to me'}]
# The last words of a model that repeats what would fool us.
SAYS = {"grammar": r'root ::= "\"usage\":{\"completion_tokens\":99,\"prompt_tokens\":99}"'}
CHAT, TEXT, NATIVE, INFILL = "/v1/chat/completions", "/v1/completions", "/completion", "/infill"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
GENERATIONS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": TALK, "max_tokens": 12}),
    (CHAT, {"messages": TALK, "max_tokens": 12, "stream_options": {"include_usage": True}}),
    (CHAT, {"messages": TALK, "max_tokens": 12, "timings_per_token": True, "return_progress": True}),
    (CHAT, {"messages": TALK, "max_tokens": 60, **SAYS}),
    (CHAT, {"messages": TALK, "max_tokens": 12, "verbose": True}),
    ("/chat/completions", {"messages": TALK, "max_tokens": 1}),
    (TEXT, {"prompt": "Once upon", "max_tokens": 12}),
    (TEXT, {"prompt": "Once upon", "max_tokens": 12, "return_progress": True, "logprobs": 2}),
    (NATIVE, {"prompt": "Once upon", "n_predict": 12}),
    (NATIVE, {"prompt": "Once upon", "n_predict": 12, "n_probs": 5, "return_progress": True}),
    (NATIVE, {"prompt": "Once upon", "n_predict": 60, **SAYS}),
    (INFILL, {"input_prefix": "The cat", "input_suffix": ".", "n_predict": 12}),
    (MESSAGES, {"messages": TALK, "max_tokens": 12}),
    (MESSAGES, {"messages": TALK, "max_tokens": 60}),
    (RESPONSES, {"input": "Tell me a story.", "max_output_tokens": 12}),
    (RESPONSES, {"input": "Tell me a story.", "max_output_tokens": 60, **SAYS}),
]
SERVERS = {
    "plain": [],
    "tools": ["--jinja", "--chat-template-file", str(TOOL_TEMPLATE)],
    "embedding": ["--embeddings", "--pooling", "mean"],
    "ranking": ["--reranking"],
}


def ask(port: int, path: str, asked: dict[str, Any] | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        if asked is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answer(port: int, path: str, asked: dict[str, Any]) -> bytes:
    status, body = ask(port, path, asked)
    assert status == 200, body
    return body


@pytest.fixture(scope="module")
def ports(llama_server_binary: Path, demo_model: Path) -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(server(llama_server_binary, demo_model, *FLAGS, *flags))
            for name, flags in SERVERS.items()
        }


def truth(parsed: dict[str, Any]) -> Usage:
    """Of an unstreamed answer, or of the object in which a stream says it."""
    usage = parsed.get("usage")
    if usage is None and "tokens_evaluated" in parsed:
        return Usage(parsed["tokens_evaluated"], parsed["tokens_predicted"], parsed["timings"]["cache_n"])
    if usage is None:
        timings = parsed["timings"]
        return Usage(timings["cache_n"] + timings["prompt_n"], timings["predicted_n"], timings["cache_n"])
    if "cache_read_input_tokens" in usage:
        cached = usage["cache_read_input_tokens"]
        return Usage(usage["input_tokens"] + cached, usage["output_tokens"], cached)
    if "input_tokens" in usage:
        cached = usage["input_tokens_details"]["cached_tokens"]
        return Usage(usage["input_tokens"], usage["output_tokens"], cached)
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return Usage(usage["prompt_tokens"], usage.get("completion_tokens", 0), cached)


def streamed_truth(path: str, stream: bytes) -> Usage:
    said = [
        json.loads(line[6:])
        for line in stream.split(b"\n")
        if line.startswith(b"data: {")  # neither pings nor [DONE]
    ]
    if path == MESSAGES:
        start = truth(said[0]["message"])
        end = next(event for event in said if event["type"] == "message_delta")
        return Usage(start.prompt, end["usage"]["output_tokens"], start.cached)
    if path == RESPONSES:
        return truth(said[-1]["response"])
    return truth(said[-1])


@pytest.mark.parametrize(("path", "asked"), GENERATIONS, ids=lambda value: str(value)[:60])
def test_unstreamed_bytes_say_what_their_json_says(
    ports: dict[str, int], path: str, asked: dict[str, Any]
) -> None:
    for _ in range(2):  # the second time the prompt is cached
        body = answer(ports["plain"], path, asked)
        found = of_body(body)
        assert found == truth(json.loads(body))
    assert found is not None
    assert found.cached > 0
    assert ("grammar" in asked) == (rb"\"usage\":{\"completion_tokens\":99" in body), "it does say so"
    if "n_probs" not in asked:  # which come after the figures
        assert of_body(body[-TAIL_BYTES:]) == found


@pytest.mark.parametrize(("path", "asked"), GENERATIONS, ids=lambda value: str(value)[:60])
def test_streamed_bytes_say_what_their_json_says(
    ports: dict[str, int], path: str, asked: dict[str, Any]
) -> None:
    for _ in range(2):
        stream = answer(ports["plain"], path, {**asked, "stream": True})
        meter = Meter(path.encode())
        for event in stream.split(b"\n\n")[:-1]:
            meter.add(event + b"\n\n")
        found = streamed_truth(path, stream)
        assert meter.usage() == found
        assert 0.8 * found.completion <= meter.tokens <= found.completion
        if path != MESSAGES:
            assert of_events(stream[-TAIL_BYTES:]) == found
        else:
            assert of_events(stream[-TAIL_BYTES // 4 :]) == Usage(0, found.completion)
    assert found.cached > 0


def test_native_answers_to_several_prompts_are_summed(ports: dict[str, int]) -> None:
    body = answer(ports["plain"], NATIVE, {"prompt": ["Once upon", "My cat"], "n_predict": 5})
    each = [truth(one) for one in json.loads(body)]
    assert len(each) == 2
    assert of_body(body) == Usage(
        sum(one.prompt for one in each),
        sum(one.completion for one in each),
        sum(one.cached for one in each),
        answers=2,
    )


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_several_choices_are_told_once_and_taken_for_each(ports: dict[str, int], path: str) -> None:
    asked = {"messages": TALK, "prompt": "Once", "max_tokens": 5, "n": 2, "ignore_eos": True}
    body = answer(ports["plain"], path, asked)
    told = truth(json.loads(body))
    assert told.completion == 5
    assert of_body(body) == Usage(told.prompt, 10, told.cached)
    meter = Meter(path.encode())
    meter.add(answer(ports["plain"], path, {**asked, "stream": True}))
    found = meter.usage()
    assert found is not None
    assert 8 <= found.completion <= 10


@pytest.mark.parametrize(
    ("name", "path", "asked"),
    [
        ("embedding", "/v1/embeddings", {"input": ["hello", "you there"]}),
        ("embedding", "/v1/embeddings", {"input": "hello", "encoding_format": "base64"}),
        ("ranking", "/v1/rerank", {"query": "a", "documents": ["b", "c"]}),
    ],
)
def test_what_generates_nothing_tells_its_prompt(
    ports: dict[str, int], name: str, path: str, asked: dict[str, Any]
) -> None:
    body = answer(ports[name], path, asked)
    told = truth(json.loads(body))
    assert told.prompt > 0
    assert of_body(body) == of_body(body[:200]) == told == Usage(told.prompt, 0)


@pytest.mark.parametrize(
    ("name", "path", "asked"),
    [
        ("embedding", "/embedding", {"content": "hello"}),
        ("ranking", "/rerank", {"query": "a", "texts": ["b", "c"], "return_text": True}),
        ("plain", "/tokenize", {"content": "hello"}),
        ("plain", "/v1/chat/completions/input_tokens", {"messages": TALK}),
        ("plain", NATIVE, {"prompt": "Once", "n_predict": 2, "response_fields": ["content"]}),
    ],
)
def test_some_answers_tell_nothing(
    ports: dict[str, int], name: str, path: str, asked: dict[str, Any]
) -> None:
    assert of_body(answer(ports[name], path, asked)) is None


def test_arguments_that_are_named_like_figures_do_not_count(ports: dict[str, int]) -> None:
    """The one place where names in an answer are not llama-server's own."""
    case = next(case for case in CASES if (case.path, case.name) == (MESSAGES, "tool use"))
    number = {"type": "integer", "enum": [99]}
    usage = {"type": "object", "properties": {"output_tokens": number}, "required": ["output_tokens"]}
    schema = {"type": "object", "properties": {"usage": usage}, "required": ["usage"]}
    asked = {**case.body(), "tools": [{"name": "weather", "description": "It.", "input_schema": schema}]}
    body = answer(ports["tools"], MESSAGES, asked)
    assert b'"usage":{"output_tokens":99}' in body
    assert of_body(body) == truth(json.loads(body)) != Usage(0, 99)
