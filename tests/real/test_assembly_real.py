"""The proof of `proxy.assembly` on the real llama-server: both ways of asking give the same bytes, and leaving ends one."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from supervisor.proxy.assembly import Unsure, as_stream
from supervisor.proxy.assembly.ask import ADDED, EXEMPT, FORMS
from tests.support import demo_model as demo_model_maker
from tests.support.assembly import (
    CASES,
    CHAT,
    KANJI,
    MESSAGES,
    NATIVE,
    RESPONSES,
    SERVER_FLAGS,
    TEXT,
    TOOL_TEMPLATE,
    Answer,
    Case,
    ask,
    normalised,
    taken_together,
)
from tests.support.bare_server import server

pytestmark = pytest.mark.real

FREED_WITHIN_S = 2.0
SERVERS = ("plain", "thinking", "tools")


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def ports(llama_server_binary, demo_model, tmp_path_factory) -> Iterator[dict[str, int]]:
    """Three servers: the demo model, one that thinks, one whose template knows tools."""
    thinking = demo_model_maker.make(tmp_path_factory.mktemp("thinking") / "demo.gguf", "--thinking")
    with ExitStack() as stack:
        starts = {
            "plain": (demo_model, []),
            "thinking": (thinking, []),
            "tools": (demo_model, ["--chat-template-file", str(TOOL_TEMPLATE)]),
        }
        yield {
            name: stack.enter_context(server(llama_server_binary, model, *SERVER_FLAGS, *flags))
            for name, (model, flags) in starts.items()
        }


def both(port: int, path: str, parsed: dict) -> tuple[Answer, Answer]:
    """The unstreamed answer, and what the rewritten request is answered."""
    body = json.dumps(parsed).encode()
    rewritten = as_stream(path.encode(), body, parsed)
    assert rewritten is not None
    return ask(port, path, body), ask(port, path, rewritten)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path} {case.name}")
@pytest.mark.parametrize("name", SERVERS)
def test_both_ways_give_the_same_bytes(ports, name, case: Case):
    parsed = case.body()
    direct, streamed = both(ports[name], case.path, parsed)
    if not streamed.streamed:  # an error found before the first event
        assert (streamed.status, streamed.body) == (direct.status, direct.body)
        assert direct.status >= 400
        return
    try:
        found = taken_together(case.path, parsed, streamed.body)
    except Unsure:
        assert not case.sure
        return
    assert found == (direct.status, normalised(direct.body))


def test_the_cases_hold_what_they_are_about(ports):
    """Thinking thinks, tools are called, several prompts are an array: the comparisons are of something."""
    wanted = {
        ("thinking", CHAT, "ends itself"): '"reasoning_content":"',
        ("thinking", MESSAGES, "ends itself"): '"type":"thinking"',
        ("thinking", RESPONSES, "ends itself"): '"type":"reasoning"',
        ("tools", CHAT, "tool call"): '"tool_calls":[{"type":"function"',
        ("tools", MESSAGES, "tool use"): '"type":"tool_use"',
        ("tools", RESPONSES, "function call"): '"type":"function_call"',
        ("plain", CHAT, "several"): '"index":2',
        ("plain", NATIVE, "prompts"): '[{"index":0',
        ("plain", NATIVE, "n_probs"): '"top_logprobs"',
        ("plain", TEXT, "logprobs"): '"top_logprobs"',
        ("plain", CHAT, "escapes"): '\\"quoted\\" \\\\ back\\n\\t\\u0001ü日🙂',
    }
    for case in CASES:
        for name in SERVERS:
            if mark := wanted.pop((name, case.path, case.name), None):
                body = ask(ports[name], case.path, json.dumps(case.body()).encode()).body.decode()
                assert mark in body
    assert not wanted


TALK = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "seed": 1, "max_tokens": 20}
PROMPT = {"prompt": "Once", "temperature": 0, "seed": 1, "n_predict": 40}
NEEDED = {
    "__verbose holds the unparsed text, which is not streamed": ("plain", CHAT, {**TALK, "verbose": True}),
    "the last line is cut off after it was streamed": (
        "plain",
        NATIVE,
        {**PROMPT, "n_indent": 4, "grammar": r'root ::= "a\n    b\n  cat\n"'},
    ),
    "a stream leaves out the text that is being continued": (
        "plain",
        CHAT,
        {
            **TALK,
            "messages": [*TALK["messages"], {"role": "assistant", "content": "Once upon"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "probabilities of tokens without visible text (the end, tags) are not streamed": (
        "plain",
        CHAT,
        {**TALK, "max_tokens": 200, "logprobs": True, "top_logprobs": 1},
    ),
    "the probabilities of a stop string's tokens are cut off unstreamed, and how many that are is not told": (
        "plain",
        TEXT,
        {**PROMPT, "stop": ["a"], "logprobs": 1},
    ),
    "of characters of several tokens only the last is streamed": (
        "plain",
        NATIVE,
        {**PROMPT, "return_tokens": True, **KANJI},
    ),
    "the last event may lack what tells it is the last": (
        "plain",
        NATIVE,
        {**PROMPT, "response_fields": ["content"]},
    ),
    "the events do not tell to which response they belong": (
        "plain",
        RESPONSES,
        {"input": "hi", "n": 2, "max_output_tokens": 5},
    ),
}


def test_every_exception_is_shown_to_be_needed():
    others = {
        "is a stream already",
        "an error to be told as it is",
        "by its documentation reasoning is put into the content of streams only (not seen in 0.5.0)",
    }
    assert {row.why for row in EXEMPT} - others == set(NEEDED)


@pytest.mark.parametrize("why", NEEDED)
def test_an_exception_is_needed(ports, why):
    """Asked as a stream all the same, it would not come out the same."""
    name, path, parsed = NEEDED[why]
    body = json.dumps(parsed).encode()
    assert as_stream(path.encode(), body, parsed) is None
    direct = ask(ports[name], path, body)
    streamed = ask(ports[name], path, body[:-1] + ADDED[FORMS[path.encode()]] + b"}")
    assert (direct.status, streamed.status, streamed.streamed) == (200, 200, True)
    try:
        found = taken_together(path, parsed, streamed.body)
    except Unsure:
        return
    assert found != (200, normalised(direct.body))


@pytest.mark.parametrize("given", [b'"stream":false', b'"stream":null', b'"stream":false,"stream":false'])
def test_the_last_of_equal_keys_counts(ports, given):
    body = b"{" + given + b',"prompt":"Once","n_predict":2}'
    rewritten = as_stream(NATIVE.encode(), body, json.loads(body))
    assert rewritten is not None
    assert given in rewritten
    assert ask(ports["plain"], NATIVE, rewritten).streamed
    assert not ask(ports["plain"], NATIVE, body).streamed


def test_an_abandoned_stream_frees_its_slot_while_another_one_runs(llama_server_binary, tmp_path):
    """What all this is for. Unstreamed, the generation would run to its end (LLAMA_SERVER (j))."""
    slow = demo_model_maker.make(tmp_path / "slow.gguf", "--endless", "--size-mb", "60")
    parsed = {**TALK, "max_tokens": 7000}
    body = json.dumps(parsed).encode()
    rewritten = as_stream(CHAT.encode(), body, parsed)
    assert rewritten is not None
    with (
        server(llama_server_binary, slow, *SERVER_FLAGS, "-np", "2", "-c", "16384") as port,
        posted(port, rewritten) as staying,
    ):
        with posted(port, rewritten):
            assert busy_slots(port) == 2
        left = time.monotonic()
        while busy_slots(port) == 2:
            assert time.monotonic() - left < FREED_WITHIN_S
            time.sleep(0.02)
        assert staying.recv(1), "the other one goes on"
        assert busy_slots(port) == 1


@contextmanager
def posted(port: int, body: bytes) -> Iterator[socket.socket]:
    """A connection on which an answer has begun; closed at the end, whatever is still to come."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        received = b""
        while b'"delta":{"content":' not in received:
            received += connection.recv(4096)
        yield connection


def busy_slots(port: int) -> int:
    return sum(slot["is_processing"] for slot in json.loads(get(port, "/slots")[1]))
