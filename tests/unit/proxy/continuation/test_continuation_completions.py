"""`proxy.continuation.completions`: prompts of all forms, tokens where they are known, grammars."""

import json
from typing import Any

import pytest

from supervisor.proxy.continuation import CannotContinue, Continuation


def native(content: str, *tokens: int, made: int, **more: Any) -> bytes:
    event = {"index": 0, "content": content, "tokens": list(tokens), "stop": False}
    return (
        b"data: %b\n\n"
        % json.dumps({**event, "tokens_predicted": made, "tokens_evaluated": 3, **more}).encode()
    )


def plain(text: str, reason: str | None = None) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
    return (
        b"data: %b\n\n" % json.dumps({"choices": [choice], "created": 1, "id": "one", "model": "m"}).encode()
    )


TWO = native(" a", 7, made=1) + native(" b", 8, made=2)
LOST = native(" a", 7, made=1) + native("é", 9, made=3)  # a character of two tokens, of which one is sent
HELD = TWO + native("", 9, made=3)  # the possible start of a stop string


def resumed(path: bytes, sent: bytes, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"stream": True, **fields}).encode()
    return json.loads(Continuation(path, body, sent).resume().body)


@pytest.mark.parametrize(
    ("prompt", "exact", "by_text"),
    [
        ("P", ["P", 7, 8], "P aé"),
        ("", ["", 7, 8], " aé"),
        ([1, 2], [1, 2, 7, 8], [1, 2, " aé"]),
        ([1, "P"], [1, "P", 7, 8], [1, "P", " aé"]),
        (["P"], ["P", 7, 8], "P aé"),
        ([[1, 2]], [1, 2, 7, 8], [1, 2, " aé"]),
        ({"prompt_string": "P"}, {"prompt_string": "P a b"}, {"prompt_string": "P aé"}),
    ],
)
def test_the_text_goes_behind_the_prompt_as_tokens_where_all_are_known(prompt: Any, exact: Any, by_text: Any):
    assert resumed(b"/completion", TWO, prompt=prompt)["prompt"] == exact
    assert resumed(b"/completions", LOST, prompt=prompt)["prompt"] == by_text


def test_tokens_of_text_that_was_held_back_are_generated_again():
    body = resumed(b"/completion", HELD, prompt="P", n_predict=10)
    assert body["prompt"] == ["P", 7, 8]
    assert body["n_predict"] == 8


def test_tokens_of_text_that_was_released_again_are_kept():
    body = resumed(b"/completion", HELD + native("xy", 10, made=4), prompt="P", n_predict=10)
    assert body["prompt"] == ["P", 7, 8, 9, 10]
    assert body["n_predict"] == 6


def test_openai_completions_are_continued_by_text():
    body = resumed(b"/v1/completions", plain(" a") + plain(" b"), prompt="P", max_tokens=9)
    assert body == {"stream": True, "prompt": "P a b", "n_predict": 7}


@pytest.mark.parametrize("prompt", [["P", "Q"], [[1], [2]], [], None, 5])
def test_several_prompts_are_refused(prompt: Any):
    with pytest.raises(CannotContinue):
        resumed(b"/completion", TWO, prompt=prompt)


def test_a_second_prompts_event_is_refused():
    with pytest.raises(CannotContinue):
        resumed(
            b"/completion", native("a", 1, made=1).replace(b'"index": 0', b'"index": 1'), prompt=["P", "Q"]
        )


def test_a_schema_is_advanced_over_the_text():
    body = resumed(b"/completion", TWO, prompt="P", json_schema={})
    assert body["generation_prompt"] == " a b"
    assert "grammar_type" not in body


def test_a_grammar_of_the_clients_is_declared_a_templates_to_be_advanced():
    body = resumed(b"/v1/completions", plain("{"), prompt="P", grammar="root ::= x")
    assert (body["generation_prompt"], body["grammar_type"], body["grammar"]) == (
        "{",
        "tool_calls",
        "root ::= x",
    )


def test_a_grammar_that_waits_for_a_trigger_is_refused():
    with pytest.raises(CannotContinue, match="trigger"):
        resumed(b"/completion", TWO, prompt="P", grammar="root ::= x", grammar_lazy=True)


def test_text_that_begins_like_thinking_is_text_here():
    assert resumed(b"/v1/completions", plain("<think>"), prompt="P")["prompt"] == "P<think>"


@pytest.mark.parametrize(
    "fields", [{"logprobs": 3}, {"n_probs": 1}, {"verbose": True}, {"n": 2}, {"response_fields": ["content"]}]
)
def test_what_has_no_right_second_half_is_refused(fields: dict[str, Any]):
    with pytest.raises(CannotContinue):
        resumed(b"/completion", TWO, prompt="P", **fields)


def test_the_last_native_event_tells_of_the_clients_request():
    body = json.dumps({"stream": True, "prompt": "P", "n_predict": 9, "grammar": "root ::= x"}).encode()
    continuation = Continuation(b"/completion", body, native("\n", 7, made=1, tokens_evaluated=3))
    continuation.resume()
    settings = {"n_predict": 8, "max_tokens": 8, "generation_prompt": "\n", "seed": 1}
    last = {
        "index": 0,
        "content": "",
        "tokens": [],
        "stop": True,
        "tokens_predicted": 2,
        "tokens_evaluated": 4,
    }
    last |= {"prompt": "<s>P\n", "generation_settings": settings, "has_new_line": False, "stop_type": "eos"}
    got = continuation.feed(native("x", 8, made=1) + b"data: %b\n\n" % json.dumps(last).encode())
    *_, event, _ = got.split(b"\n\n")
    told = json.loads(event[6:])
    assert told["prompt"] == "<s>P"
    assert (told["tokens_predicted"], told["tokens_evaluated"], told["has_new_line"]) == (3, 3, True)
    assert told["generation_settings"] == {
        "n_predict": 9,
        "max_tokens": 9,
        "generation_prompt": "",
        "seed": 1,
    }
    assert continuation.end()


def test_a_stop_string_found_at_the_cut_ends_as_such():
    timings = {"predicted_n": 2, "predicted_ms": 2.0}
    body = json.dumps({"stream": True, "prompt": "P", "stop": "END"}).encode()
    continuation = Continuation(b"/completion", body, native("x", 7, made=2, timings=timings))
    assert json.loads(continuation.resume().body)["n_predict"] == 1
    last = {
        "index": 0,
        "content": "",
        "tokens": [],
        "stop": True,
        "tokens_predicted": 1,
        "tokens_evaluated": 5,
    }
    last |= {"prompt": "Px", "generation_settings": {}, "has_new_line": False, "stop_type": "limit"}
    got = continuation.feed(native(" more", 8, made=1) + b"data: %b\n\n" % json.dumps(last).encode())
    assert b"more" not in got
    assert b'"stop_type":"word","stopping_word":"END"' in got
    assert b'"tokens_predicted":2' in got


def test_tokens_that_were_held_back_are_not_counted_twice_after_two_deaths():
    body = json.dumps({"stream": True, "prompt": "P"}).encode()
    continuation = Continuation(b"/completion", body, HELD)
    continuation.resume()
    continuation.feed(native("", 9, made=1) + native("xy", 10, made=2))
    assert json.loads(continuation.resume().body)["prompt"] == ["P", 7, 8, 9, 10]


@pytest.mark.parametrize(("path", "progress"), [
    (b"/completion", native("", 0, made=0, prompt_progress={})),
    (b"/v1/completions", plain("").replace(b"}\n", b',"prompt_progress":{}}\n')),
])  # fmt: skip
def test_progress_is_shown_until_the_text_has_begun(path: bytes, progress: bytes):
    body = json.dumps({"stream": True, "prompt": "P", "return_progress": True}).encode()
    for sent, shown in (
        (b"", True),
        (native(" a", 7, made=1) if path == b"/completion" else plain(" a"), False),
    ):
        continuation = Continuation(path, body, sent)
        continuation.resume()
        assert (b"prompt_progress" in continuation.feed(progress)) is shown
        assert continuation.broken is None


def test_timings_of_a_prompt_half_read_are_no_part_of_the_sum():
    body = json.dumps(
        {"stream": True, "prompt": "P", "return_progress": True, "timings_per_token": True}
    ).encode()
    half = {"prompt_n": 0, "predicted_n": 0, "predicted_ms": 0.0}
    continuation = Continuation(b"/completion", body, native("", 0, made=0, prompt_progress={}, timings=half))
    continuation.resume()
    whole = {"prompt_n": 3, "predicted_n": 1, "predicted_ms": 1.0}
    got = continuation.feed(native(" a", 7, made=1, timings=whole))
    assert json.loads(got.partition(b"data: ")[2])["timings"] == whole


def test_bytes_that_are_no_characters_do_not_go_through_a_grammar_again():
    assert resumed(b"/v1/completions", plain("a\ufffd"), prompt="P")["prompt"] == "Pa\ufffd"
    with pytest.raises(CannotContinue, match="no characters"):
        resumed(b"/v1/completions", plain("a\ufffd"), prompt="P", grammar="root ::= x")
