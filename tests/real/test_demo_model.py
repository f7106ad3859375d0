"""The demo model on the real llama-server: every endpoint, and how it talks."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parents[2] / "models" / "make_demo.py"
READY_DEADLINE_S = 30.0
WORDS_OF_ENGLISH = 0.95
PROMPTS = (
    "Hello!", "What is the capital of France?", "Tell me a story about a cat.", "Write a short poem.", "How are you?",
    "Give me a list of names.", "Explain rate limiting in one sentence.", "hi", "Why is the sky blue?", "2+2=?",
    "Translate 'Guten Morgen'.", "Count to ten.", "Who wrote Hamlet?", "ping", "äöü 日本語?", "Name a day.",
    "Please help me with this world.", "Summarise: the quick brown fox jumps over the lazy dog.",
    "What's up\nwith you?", "Tell me a story about a dog.",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def start_server(binary: Path, model: Path, *arguments: str) -> Iterator[httpx.Client]:
    """A client of a server on a free loopback port, killed at the end whatever happens."""
    port, log = free_port(), model.parent / f"{model.stem}.{free_port()}.log"
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *arguments]
    command += ["-t", "1", "-np", "2", "-c", "4096", "--no-ui", "--jinja"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    try:
        # No connection is kept: llama-server closes idle ones after 5 s, and tests may lie further apart.
        once = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False, limits=once) as client:
            wait_until_ready(client, process, log)
            yield client
    finally:
        process.kill()
        process.wait()


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"llama-server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    pytest.fail(f"llama-server not ready after {READY_DEADLINE_S:.0f} s")


def make(out: Path, *flags: str) -> Path:
    subprocess.run([sys.executable, "-B", str(SCRIPT), str(out), *flags], check=True, timeout=60)
    return out


@pytest.fixture(scope="module")
def server(llama_server_binary: Path, demo_model: Path) -> Iterator[httpx.Client]:
    """One with --embeddings: it must serve everything else too."""
    with start_server(llama_server_binary, demo_model, "--embeddings", "--pooling", "mean") as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(client: httpx.Client, prompt: str, **body: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return post(
        client, "/v1/chat/completions", **{"messages": messages, "temperature": 0, "max_tokens": 400} | body
    )


def content(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def words(text: str) -> list[str]:
    return [word.strip('.,!"') for word in text.split()]


def share_of_words(text: str) -> float:
    """How much of the text is plain letters: a broken model writes byte soup."""
    found = words(text)
    return sum(word.isascii() and word.isalpha() for word in found) / max(1, len(found))


# -------------------------------------------------------------------------------------- endpoints


def test_chat_answers_in_sentences_and_stops(server: httpx.Client) -> None:
    reply = chat(server, "Hello!")
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert share_of_words(content(reply)) == 1.0
    assert content(reply)[0].isupper()
    assert content(reply)[-1] in ".!"


def test_streamed_chat_is_the_same_text(server: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        "max_tokens": 400,
        "stream": True,
    }
    with server.stream("POST", "/v1/chat/completions", json=body) as answer:
        events = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == content(chat(server, "Hello!"))


def test_completion(server: httpx.Client) -> None:
    reply = post(server, "/completion", prompt="Once upon a time", temperature=0, n_predict=400)
    assert reply["stop_type"] == "eos"
    assert share_of_words(reply["content"]) == 1.0


def test_openai_completion(server: httpx.Client) -> None:
    reply = post(server, "/v1/completions", prompt="Once upon a time", temperature=0, max_tokens=400)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["choices"][0]["text"]


def test_infill(server: httpx.Client) -> None:
    reply = post(
        server, "/infill", input_prefix="The cat", input_suffix=" again.", temperature=0, n_predict=400
    )
    assert reply["stop_type"] == "eos"
    assert share_of_words(reply["content"]) == 1.0


def test_anthropic_messages(server: httpx.Client) -> None:
    reply = post(server, "/v1/messages", messages=[{"role": "user", "content": "Hello!"}], max_tokens=400)
    assert reply["stop_reason"] == "end_turn"
    assert reply["content"][0]["text"]


def test_openai_responses(server: httpx.Client) -> None:
    reply = post(server, "/v1/responses", input="Hello!", max_output_tokens=400)
    assert reply["status"] == "completed"
    assert reply["output"][0]["content"][0]["text"]


def test_embeddings_are_nearer_for_nearer_texts(server: httpx.Client) -> None:
    texts = ["The cat reads a red letter.", "My cat reads a red page.", "2+2=4; x<y"]
    data = post(server, "/v1/embeddings", input=texts)["data"]
    one, similar, other = (item["embedding"] for item in data)

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))  # normalised by the server

    assert alike(one, one) == pytest.approx(1, abs=1e-3)
    assert alike(one, similar) > alike(one, other) + 0.1


def test_json_schema_gives_json(server: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    form = {"type": "json_schema", "json_schema": {"name": "book", "schema": schema}}
    assert json.loads(content(chat(server, "Name a book.", response_format=form)))["title"]


# -------------------------------------------------------------------------------------- how it talks


def test_greedy_replies_depend_on_the_context(server: httpx.Client) -> None:
    replies = [content(chat(server, prompt)) for prompt in PROMPTS]
    assert len(set(replies)) == len(PROMPTS)
    assert [content(chat(server, prompt)) for prompt in PROMPTS[:3]] == replies[:3]


def test_an_earlier_turn_changes_the_reply(server: httpx.Client) -> None:
    turns = [{"role": role, "content": "Hello!"} for role in ("user", "assistant", "user")]
    changed = [turns[0] | {"content": "Goodbye!"}, *turns[1:]]
    assert content(chat(server, "", messages=turns)) != content(chat(server, "", messages=changed))


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_replies_end_by_themselves(server: httpx.Client, temperature: float) -> None:
    replies = [chat(server, prompt, temperature=temperature, seed=i) for i, prompt in enumerate(PROMPTS)]
    stopped = [reply["choices"][0]["finish_reason"] == "stop" for reply in replies]
    assert sum(stopped) >= 0.9 * len(PROMPTS)
    lengths = sorted(reply["usage"]["completion_tokens"] for reply in replies)
    assert 20 <= lengths[len(lengths) // 2] <= 150
    assert share_of_words(" ".join(map(content, replies))) > WORDS_OF_ENGLISH


def test_reply_to_a_long_conversation_ends_too(server: httpx.Client) -> None:
    roles = ("user", "assistant")
    turns = [
        {"role": roles[i % 2], "content": f"{PROMPTS[i % 20]} {'the cat is here ' * 6}"} for i in range(31)
    ]
    reply = chat(server, "", messages=turns)
    assert reply["usage"]["prompt_tokens"] > 1000
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert share_of_words(content(reply)) > WORDS_OF_ENGLISH


# ------------------------------------------------------------------------------------------ variants


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_endless_runs_until_max_tokens_without_a_loop(
    llama_server_binary: Path, tmp_path: Path, temperature: float
) -> None:
    with start_server(llama_server_binary, make(tmp_path / "endless.gguf", "--endless")) as client:
        for prompt in PROMPTS[:5]:
            reply = chat(client, prompt, max_tokens=1000, temperature=temperature, seed=1)
            assert reply["choices"][0]["finish_reason"] == "length"
            assert reply["usage"]["completion_tokens"] == 1000
            assert len(set(words(content(reply))[-100:])) > 20


def test_thinking_gives_reasoning_then_an_answer(llama_server_binary: Path, tmp_path: Path) -> None:
    with start_server(llama_server_binary, make(tmp_path / "thinking.gguf", "--thinking")) as client:
        replies = [chat(client, prompt)["choices"][0] for prompt in PROMPTS]
        plain = chat(client, "Hello!", chat_template_kwargs={"enable_thinking": False})["choices"][0][
            "message"
        ]
    both = [reply["message"].get("reasoning_content") and reply["message"]["content"] for reply in replies]
    assert sum(map(bool, both)) >= 0.9 * len(PROMPTS)
    assert sum(reply["finish_reason"] == "stop" for reply in replies) >= 0.9 * len(PROMPTS)
    assert plain["content"]
    assert not plain.get("reasoning_content")


def test_large_variant_talks_and_is_slower(
    server: httpx.Client, llama_server_binary: Path, tmp_path: Path
) -> None:
    def tokens_a_second(client: httpx.Client) -> float:
        body = {"prompt": "Hello", "n_predict": 60, "ignore_eos": True, "temperature": 0}
        return float(post(client, "/completion", **body)["timings"]["predicted_per_second"])

    with start_server(llama_server_binary, make(tmp_path / "large.gguf", "--size-mb", "200")) as client:
        reply, speed = chat(client, "Hello!"), tokens_a_second(client)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert share_of_words(content(reply)) > WORDS_OF_ENGLISH
    assert speed < tokens_a_second(server) / 5


def test_unknown_architecture_does_not_load(llama_server_binary: Path, tmp_path: Path) -> None:
    model = make(tmp_path / "other.gguf", "--arch", "nonesuch")
    command = [
        str(llama_server_binary),
        "-m",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(free_port()),
        "--no-ui",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "unknown model architecture: 'nonesuch'" in done.stderr
