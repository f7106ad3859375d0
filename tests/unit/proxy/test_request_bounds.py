"""`proxy.request_bounds`: each bound from both sides; what ordinary clients send passes."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from supervisor.errors import BadRequest, BodyTooLarge, LlmsupError
from supervisor.proxy.request_bounds import (
    BYTES_PER_TOKEN,
    LEAST_PROBABILITIES,
    LEAST_WINDOW,
    MAX_CANDIDATES,
    MAX_INPUTS,
    MAX_ITEM_CHARS,
    MAX_ITEMS,
    MAX_MEMBERS,
    MAX_MESSAGES,
    MAX_PARTS,
    ORDINARY,
    TEXT_BYTES,
    WINDOWS,
    check,
)
from tests.real.conformance import chat_cases, other_cases, text_cases, wire_cases

NATIVE, CHAT, EMBED = b"/completion", b"/v1/chat/completions", b"/v1/embeddings"
SMALL, LARGE = 4096, 131_072  # contexts
SLOTS = 4


def judge(
    asked: Mapping[str, Any], path: bytes = NATIVE, *, context: int = SMALL, slots: int = SLOTS
) -> None:
    demand = check(path, asked, body_bytes=len(json.dumps(asked)))
    demand.check(context_size=context, slots=slots)


def refusal(asked: Mapping[str, Any], path: bytes = NATIVE, **more: Any) -> LlmsupError:
    with pytest.raises((BadRequest, BodyTooLarge)) as caught:
        judge(asked, path, **more)
    return caught.value


# ---- what ordinary clients send

ORDINARY_BODIES: list[dict[str, Any]] = [
    {"prompt": "a", "n_predict": -1, "repeat_last_n": -1, "dry_penalty_last_n": -1, "top_k": 10**6, "seed": 2**32 - 1},
    {"prompt": "a", "max_tokens": 1_000_000, "temperature": 0.0, "repeat_last_n": 0, "n_keep": -1},
    {"prompt": "a", "repeat_last_n": 8192, "dry_penalty_last_n": 32_768, "samplers": "dkypmxt"},
    {"prompt": "a", "logit_bias": {str(token): -100 for token in range(300)}, "stop": ["\n"] * 16},
    {"messages": [{"role": "user", "content": "hi"}] * 1000, "logprobs": True, "top_logprobs": 20},
    {"prompt": "a", "n_probs": 1000, "n_predict": 100},
    {"prompt": "a", "n": None, "repeat_last_n": None, "stop": None, "logit_bias": None, "grammar": None},
    {"prompt": "a", "grammar": "", "grammar_triggers": [{"type": 1, "value": "<tool>"}], "preserved_tokens": ["<tool>"]},
    {"prompt": "a", "samplers": 5, "stop": "x", "grammar": 7, "json_schema": "x", "messages": {}},  # llama-server's to refuse
]  # fmt: skip


@pytest.mark.parametrize("asked", ORDINARY_BODIES)
@pytest.mark.parametrize("path", [NATIVE, CHAT])
def test_ordinary_requests_pass(asked, path):
    judge(asked, path)


def test_most_requests_have_nothing_to_judge():
    assert check(CHAT, {"messages": [], "max_tokens": 9, "temperature": 1}, body_bytes=100) is ORDINARY


CONFORMANCE = [
    case
    for module in (chat_cases, text_cases, other_cases, wire_cases)
    for case in module.cases()
    if isinstance(case.body, dict) and case.status < 400
]


@pytest.mark.parametrize("case", CONFORMANCE, ids=lambda case: case.id)
def test_what_llama_server_answers_in_the_conformance_corpus_passes(case):
    judge(case.body, case.path.encode())


# ---- parameters


@pytest.mark.parametrize("name", sorted(WINDOWS))
@pytest.mark.parametrize(("context", "most"), [(SMALL, LEAST_WINDOW), (LARGE, LARGE)])
def test_windows_within_the_context(name, context, most):
    judge({name: most}, context=context)
    judge({name: most + 0.5}, context=context)  # which is cut off
    for value in (most + 1, most + 1.0, 2**31 - 1, 2.0**31, 2**64, 1e300):
        error = refusal({name: value}, context=context)
        assert name in error.message
        assert str(most) in error.message


@pytest.mark.parametrize("value", [-2, -(2**31) - 1, -(2**32) + 10**6, -1e18])
def test_numbers_that_would_wrap_are_refused(value):
    assert "the least is -1" in refusal({"repeat_last_n": value}).message


def test_probabilities_by_the_length_of_the_answer():
    judge({"n_probs": LEAST_PROBABILITIES}, context=LARGE)
    refusal({"n_probs": LEAST_PROBABILITIES + 1}, context=LARGE)
    judge({"n_probs": MAX_CANDIDATES // 100, "n_predict": 100})
    refusal({"n_probs": MAX_CANDIDATES // 100 + 1, "n_predict": 100})
    refusal({"top_logprobs": MAX_CANDIDATES // 100, "max_tokens": 101})
    refusal({"logprobs": 1000, "max_tokens": -1})
    refusal(
        {"n_probs": 1000, "max_tokens": 1, "n_predict": 10_000}
    )  # the cap that counts depends on the route


@pytest.mark.parametrize(
    "name", sorted(MAX_ITEMS.keys() - {"logit_bias", "grammar_triggers", "tools", "functions"})
)
def test_lists_of_parameters(name):
    most = MAX_ITEMS[name]
    judge({name: ["x"] * most})
    assert f"{name} has {most + 1} items; the most is {most}" in refusal({name: ["x"] * (most + 1)}).message
    judge({name: ["x" * MAX_ITEM_CHARS]})
    refusal({name: ["x" * (MAX_ITEM_CHARS + 1)]})


def test_samplers_may_be_named_by_characters():
    judge({"samplers": "k" * MAX_ITEMS["samplers"]})
    refusal({"samplers": "k" * (MAX_ITEMS["samplers"] + 1)})


def test_biases():
    most = MAX_ITEMS["logit_bias"]
    judge({"logit_bias": [[1, 1]] * most})
    refusal({"logit_bias": [[1, 1]] * (most + 1)})
    refusal({"logit_bias": {str(token): 1 for token in range(MAX_MEMBERS + 1)}})


@pytest.mark.parametrize(
    "trigger",
    [
        {"type": 2, "value": "(a*)*b"},
        {"type": 3, "value": "x"},
        {"type": [], "value": "x"},
        {"type": {}, "value": "x"},
        {"value": "x"},
        "x",
    ],
)
def test_no_regular_expressions_of_clients(trigger):
    refusal({"grammar_triggers": [{"type": 1, "value": "x"}, trigger]})


@pytest.mark.parametrize("name", ["chat_parser", "grammar_type"])
@pytest.mark.parametrize("more", [{}, {"prompt": "x" * 20_000}])
def test_what_is_not_for_clients(name, more):
    assert name in refusal({name: "{}", **more}).message


# ---- counts


def test_members_of_any_object_however_deep():
    inside, outside = ({f"{i}": i for i in range(count)} for count in (MAX_MEMBERS, MAX_MEMBERS + 1))
    for place in ("chat_template_kwargs", "metadata"):
        judge({place: {"deep": [[inside]]}}, CHAT)
        assert "members" in refusal({place: {"deep": [[outside]]}}, CHAT).message
    refusal(outside, b"/tokenize")


def test_messages_and_parts():
    message = {"role": "user", "content": "a"}
    judge({"messages": [message] * MAX_MESSAGES}, CHAT)
    assert "messages" in refusal({"messages": [message] * (MAX_MESSAGES + 1)}, CHAT).message
    refusal({"messages": [{"role": "user", "content": [{"type": "text"}] * MAX_PARTS}]}, CHAT)


def test_answers_are_no_more_than_slots():
    judge({"prompt": ["a"] * 4})
    error = refusal({"prompt": ["a"] * 5})
    assert "5 answers" in error.message
    assert "4 slots" in error.message
    refusal({"prompt": ["a", "b"], "n": 3})
    refusal({"messages": [], "n": 2}, CHAT, slots=1)


def test_inputs_may_be_more_than_slots():
    judge({"input": ["a"] * MAX_INPUTS}, EMBED)
    refusal({"input": ["a"] * (MAX_INPUTS + 1)}, EMBED)
    demand = check(EMBED, {"input": ["a"] * 100}, body_bytes=500)
    assert (demand.leases(4, 10), demand.leases(4, 3)) == (4, 3)


@pytest.mark.parametrize("context", [SMALL, LARGE])
def test_texts_that_have_no_place_in_the_context(context):
    most = max(TEXT_BYTES, BYTES_PER_TOKEN * context)
    for path, asked in (
        (NATIVE, lambda text: {"prompt": text}),
        (CHAT, lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        (EMBED, lambda text: {"input": ["short", text]}),
        (b"/v1/messages/count_tokens", lambda text: {"system": [{"text": text}], "messages": []}),
    ):
        judge(asked("x" * most), path, context=context)
        with pytest.raises(BodyTooLarge):
            judge(asked("x" * (most + 1)), path, context=context)
    with pytest.raises(BodyTooLarge):
        judge({"content": "x" * most}, b"/tokenize", context=context)
    image = {"type": "image_url", "image_url": {"url": "x" * (2 * most)}}
    judge({"messages": [{"role": "user", "content": [image]}]}, CHAT, context=context)


def test_many_long_inputs_pass():
    judge({"input": ["x" * 4000] * 1000}, EMBED)
