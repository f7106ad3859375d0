"""Prompts counted before they are served: llama-server says of a body what it then really takes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.proxy.counting import MIN_BYTES
from tests.support import rawhttp
from tests.support.daemon import NO_LIMIT, DaemonUnderTest, running

pytestmark = pytest.mark.real

WORDS = "One word after another. " * 20
TURNS = [{"role": "user", "content": WORDS}]
ASKED = {
    "/v1/chat/completions": ("/v1/chat/completions/input_tokens", {"messages": TURNS}, "prompt_tokens"),
    "/v1/responses": ("/v1/responses/input_tokens", {"input": TURNS}, "input_tokens"),
    "/v1/messages": ("/v1/messages/count_tokens", {"messages": TURNS}, "input_tokens"),
}
CAPS = {"max_tokens": 1, "max_output_tokens": 1}
QUOTA = 1_000_000


@pytest.fixture(scope="module")
def daemon(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    pools = {"anonymous": NO_LIMIT | {"shared": None}, "user": NO_LIMIT | {"tokens_per_day": QUOTA}}
    with running(binary=llama_server_binary, model_path=demo_model, limits={"pools": pools}) as daemon:
        yield daemon


def ask(daemon: DaemonUnderTest, path: str, body: dict[str, object], user: str = "") -> rawhttp.Response:
    headers = [("X-User-ID", user)] if user else []
    return rawhttp.ask(daemon.port, "POST", path, json.dumps(body).encode(), headers)


@pytest.mark.parametrize(("path", "counter"), list(ASKED.items()), ids=ASKED.keys())
def test_what_is_counted_is_what_it_takes(
    daemon: DaemonUnderTest, path: str, counter: tuple[str, dict[str, object], str]
) -> None:
    count_path, body, name = counter
    counted = ask(daemon, count_path, body | CAPS).json()["input_tokens"]
    usage = ask(daemon, path, body | CAPS).json()["usage"]
    assert counted == usage[name] + usage.get("cache_read_input_tokens", 0) > 20


def test_a_large_body_is_charged_by_its_count_and_not_by_its_bytes(daemon: DaemonUnderTest) -> None:
    """Most of this one is no prompt at all."""
    body = {"messages": TURNS, "metadata": {"note": "x" * MIN_BYTES}}
    counted = ask(daemon, "/v1/chat/completions/input_tokens", body).json()["input_tokens"]
    answer = ask(daemon, "/v1/chat/completions", body | {"max_tokens": 1}, "ann")
    assert answer.status == 200
    left = answer.header("x-ratelimit-remaining-tokens")
    assert left is not None
    assert QUOTA - int(left) == counted + 1 < MIN_BYTES // 4
