"""`proxy.counting`: which prompts are counted by llama-server, where, and what it may answer."""

import asyncio
from types import SimpleNamespace

import pytest

from supervisor.proxy.counting import MAX_BYTES, MIN_BYTES, PromptCounter
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.sequences import SLOTLESS
from tests.support.desk import FIELDS
from tests.support.proxyrig import view

COUNTED = {
    b"/v1/chat/completions": "/v1/chat/completions/input_tokens",
    b"/chat/completions": "/v1/chat/completions/input_tokens",
    b"/v1/responses": "/v1/responses/input_tokens",
    b"/responses": "/v1/responses/input_tokens",
    b"/v1/messages": "/v1/messages/count_tokens",
}


def exchange(
    path: bytes = b"/v1/messages", size: int = MIN_BYTES, *, is_open: bool = True, port: int | None = 1
) -> Exchange:
    one = Exchange(None, b"POST", path, FIELDS, "")  # type: ignore[arg-type]  # nobody answers
    one.path, one.body = path, b"x" * size
    one.gate = SimpleNamespace(open=is_open, view=view("READY", port=port))  # type: ignore[assignment]  # of paper
    return one


def count(one: Exchange, told: object) -> tuple[int | None, list[tuple[int, str, bytes]]]:
    asked = []

    async def ask(endpoint, path, body):
        asked.append((endpoint.port, path, body))
        return told

    return asyncio.run(PromptCounter(ask).count(one)), asked


def worth(one: Exchange) -> bool:
    return PromptCounter(None).worth(one)  # type: ignore[arg-type]  # nobody is asked


@pytest.mark.parametrize(
    ("size", "expected"),
    [(MIN_BYTES - 1, False), (MIN_BYTES, True), (MAX_BYTES, True), (MAX_BYTES + 1, False)],
)
def test_only_prompts_of_some_size_are_worth_it(size, expected):
    assert worth(exchange(size=size)) is expected


def test_only_generation_at_a_child_that_may_be_asked_is_worth_it():
    assert not worth(exchange(b"/completion"))
    assert not worth(exchange(is_open=False))
    slotless = exchange()
    slotless.needs_slot = False
    assert not worth(slotless)
    nowhere = exchange()
    nowhere.gate = None
    assert not worth(nowhere)


@pytest.mark.parametrize(("path", "asked_at"), COUNTED.items())
def test_it_is_asked_where_the_same_body_is_counted_without_a_slot(path, asked_at):
    one = exchange(path)
    assert count(one, {"input_tokens": 7}) == (7, [(1, asked_at, one.body)])
    assert asked_at.encode() in SLOTLESS


@pytest.mark.parametrize(
    "told", [None, {}, {"input_tokens": "7"}, {"input_tokens": -1}, [7], "7", {"input_tokens": 7.5}]
)
def test_what_is_no_number_of_tokens_is_none(told):
    assert count(exchange(), told)[0] is None


def test_nobody_is_asked_where_there_is_no_child():
    assert count(exchange(port=None), {"input_tokens": 7}) == (None, [])
