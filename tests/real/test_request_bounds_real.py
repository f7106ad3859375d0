"""On the real binary: what it would die of, stand still over or answer ahead of everybody is refused, and its process lives."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import rawhttp
from tests.support.daemon import NO_LIMIT, DaemonUnderTest, answer_of, running

pytestmark = pytest.mark.real

COMPLETION = "/completion"
FEW_TOKENS = 5000
CYCLE = {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}
PARSER = json.dumps({"parsers": [{"type": "sequence", "children": [0]}], "rules": {}, "root": 0})
# Each kills the bare binary of today, or takes gigabytes or minutes of it.
POISON: dict[str, dict[str, Any]] = {
    "deep grammar": {"grammar": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000},
    "reference to itself": {"json_schema": CYCLE},
    "reference to itself in a tool": {
        "tools": [{"function": {"name": "f", "parameters": CYCLE}}],
        "messages": [],
    },
    "long name": {"json_schema": {"properties": {"!" * 200_000: {"type": "string"}}}},
    "parser": {"chat_parser": PARSER, "chat_format": 4},
    "ambiguous grammar": {"grammar": "root ::= " + '"a"? ' * 2000},
    "regular expression": {"grammar_triggers": [{"type": 2, "value": "(a*)*b"}], "grammar_lazy": True},
    "window": {"repeat_last_n": 2**31 - 1, "repeat_penalty": 1.1},
    "window as a fraction": {"dry_penalty_last_n": 2147483000.0, "dry_multiplier": 1.0},
    "members": {"chat_template_kwargs": {f"k{i}": i for i in range(90_000)}},
    "prompts": {"prompt": ["a"] * 32},
}


@pytest.fixture(scope="module")
def daemon(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    pools = {
        "anonymous": NO_LIMIT | {"shared": None},
        "user": NO_LIMIT | {"tokens_per_minute": FEW_TOKENS},
    }
    with running(binary=llama_server_binary, model_path=demo_model, limits={"pools": pools}) as daemon:
        yield daemon


def ask(
    daemon: DaemonUnderTest, body: dict[str, Any], user: str | None = None, path: str = COMPLETION
) -> rawhttp.Response:
    headers = [("X-User-ID", user)] if user is not None else []
    return rawhttp.ask(daemon.port, "POST", path, json.dumps(body).encode(), headers)


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_poison_is_refused_and_the_child_lives(daemon: DaemonUnderTest, poison: dict[str, Any]) -> None:
    pid = daemon.wait_ready()["pid"]
    began = time.monotonic()
    for path in (COMPLETION, "/v1/chat/completions"):
        answer = ask(daemon, {"prompt": "a", "n_predict": 2} | poison, path=path)
        assert answer.status in ({400, 413} if path == COMPLETION or "prompt" not in poison else {400, 500})
    assert answer_of(daemon.chat(max_tokens=4))
    assert time.monotonic() - began < 5
    assert daemon.wait_ready()["pid"] == pid


def test_what_gets_in_all_the_same_fails_alone(daemon: DaemonUnderTest) -> None:
    """By way of the child's own port, and its hard limit."""
    one = daemon.wait_ready()
    key = psutil.Process(one["pid"]).environ()["LLAMA_API_KEY"]
    body = json.dumps({"prompt": "a", "n_predict": 2, **POISON["window"]}).encode()
    answer = rawhttp.ask(one["port"], "POST", COMPLETION, body, [("Authorization", f"Bearer {key}")])
    assert answer.status == 400
    assert b"bad_alloc" in answer.body
    assert daemon.wait_ready()["pid"] == one["pid"]


def test_as_many_answers_as_slots_are_served(daemon: DaemonUnderTest) -> None:
    slots = daemon.wait_ready()["slots"]["total"]
    answer = ask(daemon, {"prompt": ["a"] * slots, "n_predict": 4})
    assert answer.status == 200
    assert len(json.loads(answer.body)) == slots


@pytest.mark.parametrize(
    ("more", "most"), [({}, 4), ({"stream": True}, 12)], ids=["at its worst case", "as it was counted"]
)
def test_what_an_answer_does_not_tell_is_charged_all_the_same(
    daemon: DaemonUnderTest, more: dict[str, Any], most: int
) -> None:
    body = {"prompt": "a", "n_predict": 1500, "ignore_eos": True, "response_fields": ["content"], **more}
    statuses = [ask(daemon, body, f"quiet-{most}").status for _ in range(most + 1)]
    assert statuses[0] == 200
    assert statuses[-1] == 429
