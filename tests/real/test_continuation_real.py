"""`proxy.continuation` against the real llama-server: cut, ask a fresh process for the rest, splice, compare.

Greedy answers, so the whole must be what an uninterrupted generation says. Prompts are not cached: a request
for the rest finds a server that has never seen the first part.
"""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from supervisor.proxy.continuation import CannotContinue, Continuation
from tests.support import demo_model as maker
from tests.support import streams

pytestmark = pytest.mark.real

READY_DEADLINE_S = 30.0
CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
STORY = [{"role": "user", "content": "Tell me a story about a cat."}]
BEGUN = [*STORY, {"role": "assistant", "content": "The"}]
USAGE = {"stream_options": {"include_usage": True}}
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "sizes": {"type": "array", "items": {"enum": [1, 2, 30]}, "minItems": 2, "maxItems": 3},
        "ok": {"type": "boolean"},
    },
    "required": ["colour", "sizes", "ok"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]
GRAMMAR = 'root ::= "[" [a-z ]{3,12} "," [0-9]{2,4} "]"'
# Characters that take several tokens of this model each, not all of which a stream shows.
MANY_BYTES = 'root ::= ("日本" | "äöü" | "🦙x"){4,9} "."'
# Every how many events a stream is cut, so that the whole takes less than a minute.
EVERY = 3
# Prompts are computed in batches, answers token by token: the rounding differs, and some hundred tokens on
# two words can be so close that it decides between them.
TOKENS = 300


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def post(self, path: str, body: bytes) -> bytes:
        answer = self.client.post(path, content=body)
        assert answer.status_code == 200, answer.text
        return answer.content

    def cut(self, path: str, body: bytes, events: int) -> bytes:
        """What a client has got of a process that is killed: at least this many events are on their way."""
        got = b""
        with self.client.stream("POST", path, content=body) as answer:
            try:
                for piece in answer.iter_bytes():
                    got += piece
                    if got.count(b"\n\n") >= events:
                        self.process.kill()
            except httpx.TransportError:
                pass
        self.process.wait()
        return b"".join(block + b"\n\n" for block in got.split(b"\n\n")[:events])


@contextmanager
def serving(binary: Path, model: Path, *arguments: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = model.parent / f"{port}.log"
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", "demo"]
    command += ["-t", "1", "-np", "1", "-c", "2048", "--cache-ram", "0", "--no-ui", "--jinja", *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    once = httpx.Limits(max_keepalive_connections=0)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, limits=once
        ) as client:
            deadline = time.monotonic() + READY_DEADLINE_S
            while not healthy(client):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, "llama-server is not ready"
                time.sleep(0.02)
            yield Server(process, client)
    finally:
        process.kill()
        process.wait()


def healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def greedy(**fields: Any) -> bytes:
    return json.dumps({"stream": True, "temperature": 0, "cache_prompt": False, **fields}).encode()


def spliced(server: Server, path: str, body: bytes, sent: bytes) -> bytes:
    """What the client has in the end. Raises CannotContinue."""
    continuation = Continuation(path.encode(), body, sent)
    if continuation.finished:
        return sent
    resume = continuation.resume()
    answer = server.post(resume.target.decode(), resume.body)
    rest = b"".join(continuation.feed(answer[at : at + 1000]) for at in range(0, len(answer), 1000))
    assert continuation.broken is None
    assert continuation.end(), rest[-500:]
    return sent + rest


def cuts(stream: bytes, every: int = EVERY) -> list[bytes]:
    """Beginnings of the stream, the last ones and the first ones among them."""
    events = streams.events(stream)
    last = len(events)
    return [
        b"".join(events[:at])
        for at in range(last + 1)
        if at % every == 0 or at in {1, last - 2, last - 1, last}
    ]


def unknown_end(path: str, sent: bytes) -> bool:
    return path == MESSAGES and b"content_block_stop" in sent and b"message_delta" not in sent


def assert_exact_everywhere(
    first: Server, second: Server, path: str, body: bytes, every: int = EVERY
) -> None:
    whole = first.post(path, body)
    told = streams.told(path, whole)
    assert told.ends == 1
    tested = 0
    for sent in cuts(whole, every):
        if unknown_end(path, sent):
            continue
        got = streams.told(path, spliced(second, path, body, sent))
        assert got.said == told.said, f"cut after {len(sent)} bytes: {sent[-200:]!r}"
        assert (got.ends, len(got.ids)) == (1, 0 if path == NATIVE else 1)
        tested += 1
    assert tested >= 4


PLAIN = {
    "chat": (CHAT, greedy(messages=STORY, max_tokens=40, **USAGE)),
    "chat without limit": (CHAT, greedy(messages=STORY, timings_per_token=True, return_progress=True)),
    "chat begun by the client": (CHAT, greedy(messages=BEGUN, max_tokens=20)),
    "chat continued by the client": (
        CHAT,
        greedy(messages=BEGUN, max_tokens=20, continue_final_message=True, add_generation_prompt=False),
    ),
    "chat with stop strings": (CHAT, greedy(messages=STORY, stop=["warm letter", "f a"])),
    "completions": (TEXT, greedy(prompt="The cat", max_tokens=40)),
    "completions of tokens": (TEXT, greedy(prompt=[100, 498], max_tokens=20)),
    "native": (NATIVE, greedy(prompt="The cat", n_predict=40)),
    "native mixed": (NATIVE, greedy(prompt=[100, " cat"], n_predict=20, return_progress=True)),
    "native with a stop string": (NATIVE, greedy(prompt="The cat", stop="n open la")),
    "native with a schema": (NATIVE, greedy(prompt="The cat", json_schema=SCHEMA)),
    "native with a grammar": (NATIVE, greedy(prompt="The cat", grammar=GRAMMAR)),
    "native with characters of many tokens": (NATIVE, greedy(prompt="The cat", grammar=MANY_BYTES)),
    "completions with characters of many tokens": (TEXT, greedy(prompt="The cat", grammar=MANY_BYTES)),
    "chat with tools that are not used": (CHAT, greedy(messages=STORY, max_tokens=40, tools=TOOLS)),
    "messages": (MESSAGES, greedy(messages=STORY, max_tokens=40)),
    "messages begun by the client": (MESSAGES, greedy(messages=BEGUN, max_tokens=20)),
    "responses": (RESPONSES, greedy(input="Tell me a story about a cat.", max_output_tokens=40)),
}


@pytest.fixture(scope="module")
def plain(llama_server_binary: Path, demo_model: Path) -> Iterator[tuple[Server, Server]]:
    with (
        serving(llama_server_binary, demo_model) as first,
        serving(llama_server_binary, demo_model) as second,
    ):
        yield first, second


@pytest.mark.parametrize("name", PLAIN)
def test_cut_anywhere_the_answer_is_the_uninterrupted_one(plain: tuple[Server, Server], name: str) -> None:
    assert_exact_everywhere(*plain, *PLAIN[name])


def test_usage_is_that_of_the_whole_answer(plain: tuple[Server, Server]) -> None:
    for path, body in (PLAIN["chat"], PLAIN["completions"], PLAIN["native"], PLAIN["responses"]):
        whole = plain[0].post(path, body)
        told = streams.told(path, whole)
        sent = b"".join(streams.events(whole)[:20])
        got = streams.told(path, spliced(plain[1], path, body, sent))
        assert (got.prompt_tokens, got.completion_tokens) == (told.prompt_tokens, told.completion_tokens)


def test_structured_chat_stays_valid_wherever_it_is_cut(plain: tuple[Server, Server]) -> None:
    """Not always token for token: white space that a grammar forced is not cut into the same tokens again."""
    fmt = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    body = greedy(messages=STORY, response_format=fmt)
    for sent in cuts(plain[0].post(CHAT, body)):
        told = streams.told(CHAT, spliced(plain[1], CHAT, body, sent))
        value = json.loads(told.text)
        assert told.text.startswith(streams.told(CHAT, sent).text)
        assert set(value) == {"colour", "sizes", "ok"}
        assert value["colour"] in {"red", "green", "blue"}
        assert 2 <= len(value["sizes"]) <= 3
        assert set(value["sizes"]) <= {1, 2, 30}
        assert told.reason == "stop"


def test_a_grammar_in_completions_goes_on_where_it_was(plain: tuple[Server, Server]) -> None:
    body = greedy(prompt="The cat", grammar=GRAMMAR)
    for sent in cuts(plain[0].post(TEXT, body), 1):
        told = streams.told(TEXT, spliced(plain[1], TEXT, body, sent))
        assert re.fullmatch(r"\[[a-z ]{3,12},[0-9]{2,4}\]", told.text)


def test_a_grammar_in_a_chat_is_refused_because_it_would_begin_anew(plain: tuple[Server, Server]) -> None:
    body = greedy(messages=STORY, grammar=GRAMMAR)
    sent = b"".join(streams.events(plain[0].post(CHAT, body))[:4])
    with pytest.raises(CannotContinue, match="grammar"):
        spliced(plain[1], CHAT, body, sent)


# ---- thinking

THOUGHTFUL = {
    "chat": (CHAT, greedy(messages=STORY, **USAGE)),
    "messages": (MESSAGES, greedy(messages=STORY)),
    "responses": (RESPONSES, greedy(input="Tell me a story")),
    "chat with a schema": (
        CHAT,
        greedy(messages=STORY, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
    ),
}


@pytest.fixture(scope="module")
def thoughtful(
    llama_server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """With a template that ends thinking as this model does: with the tag and one line break.

    The model's own says two. Then text is continued as the template has it, not as the model made it.
    """
    model = maker.make(tmp_path_factory.mktemp("thinking") / "thinking.gguf", "--thinking")
    with serving(llama_server_binary, model) as server:
        own = server.client.get("/props").json()["chat_template"]
    template = own.replace(r"'\n</think>\n\n'", r"'</think>\n'")
    assert template != own
    (model.parent / "template.jinja").write_text(template)
    fitting = ("--chat-template-file", str(model.parent / "template.jinja"))
    with (
        serving(llama_server_binary, model, *fitting) as first,
        serving(llama_server_binary, model, *fitting) as second,
    ):
        yield first, second


@pytest.mark.parametrize("name", THOUGHTFUL)
def test_cut_within_and_after_thinking_the_answer_is_the_uninterrupted_one(
    thoughtful: tuple[Server, Server], name: str
) -> None:
    told = streams.told(THOUGHTFUL[name][0], thoughtful[0].post(*THOUGHTFUL[name]))
    assert told.reasoning
    assert told.text
    assert_exact_everywhere(*thoughtful, *THOUGHTFUL[name], every=5)


# ---- real deaths


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maker.make(tmp_path_factory.mktemp("endless") / "endless.gguf", "--endless")


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": STORY, "max_tokens": TOKENS, **USAGE}),
        (TEXT, {"prompt": "The cat", "max_tokens": TOKENS}),
        (NATIVE, {"prompt": "The cat", "n_predict": TOKENS}),
        (MESSAGES, {"messages": STORY, "max_tokens": TOKENS}),
        (RESPONSES, {"input": STORY[0]["content"], "max_output_tokens": TOKENS}),
    ],
)
def test_two_processes_killed_within_one_answer(
    llama_server_binary: Path, endless: Path, path: str, fields: dict[str, Any]
) -> None:
    body = greedy(**fields)
    with serving(llama_server_binary, endless) as server:
        whole = streams.told(path, server.post(path, body))
        sent = server.cut(path, body, 40)
    continuation = Continuation(path.encode(), body, sent)
    with serving(llama_server_binary, endless) as server:
        resume = continuation.resume()
        sent += continuation.feed(server.cut(path, resume.body, 40))
        assert not continuation.end()
    with serving(llama_server_binary, endless) as server:
        sent += continuation.feed(server.post(path, continuation.resume().body))
    assert continuation.end()
    got = streams.told(path, sent)
    assert got.said == whole.said
    assert got.completion_tokens == whole.completion_tokens == TOKENS
    assert (got.ends, got.marks) == (1, 2)
