"""`proxy.continuation.chat`: which message the rest is asked with, and what is refused."""

import json
from typing import Any

import pytest

from supervisor.proxy.continuation import CannotContinue, Continuation

PATH = b"/v1/chat/completions"
QUESTION = {"role": "user", "content": "?"}


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    event = {
        "choices": [choice],
        "created": 1,
        "id": "one",
        "model": "m",
        "object": "chat.completion.chunk",
        **more,
    }
    return b"data: %b\n\n" % json.dumps(event).encode()


ROLE = chunk({"role": "assistant", "content": None})


def text(*pieces: str) -> bytes:
    return b"".join(chunk({"content": piece}) for piece in pieces)


def thinking(*pieces: str) -> bytes:
    return b"".join(chunk({"reasoning_content": piece}) for piece in pieces)


def continuation(sent: bytes, *messages: Any, **fields: Any) -> Continuation:
    body = {"stream": True, "messages": list(messages) or [QUESTION], **fields}
    return Continuation(PATH, json.dumps(body).encode(), sent)


def resumed(sent: bytes, *messages: Any, **fields: Any) -> dict[str, Any]:
    return json.loads(continuation(sent, *messages, **fields).resume().body)


def refused(sent: bytes, *messages: Any, **fields: Any) -> str:
    with pytest.raises(CannotContinue) as caught:
        continuation(sent, *messages, **fields).resume()
    return str(caught.value)


def test_the_text_becomes_the_last_message_and_is_continued():
    body = resumed(ROLE + text("Once", " upon"), temperature=0.5)
    assert body == {
        "stream": True,
        "messages": [QUESTION, {"role": "assistant", "content": "Once upon"}],
        "temperature": 0.5,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def test_unfinished_thinking_goes_back_with_empty_text():
    (_, said) = resumed(ROLE + thinking("Well", ",\n"))["messages"]
    assert said == {"role": "assistant", "content": "", "reasoning_content": "Well,\n"}


def test_the_line_break_that_ends_thinking_is_the_templates():
    (_, said) = resumed(ROLE + thinking("Well", ".\n") + text("So"))["messages"]
    assert said["reasoning_content"] == "Well."


def test_a_template_whose_tag_stands_alone_keeps_the_line_break():
    (_, said) = resumed(ROLE + thinking("Well", ".\n") + text("\n\nSo"))["messages"]
    assert said["reasoning_content"] == "Well.\n"
    assert said["content"] == "\n\nSo"


def test_any_text_survives_the_way_back():
    said = 'äöü "\\ \n\t\u0000 日本語 🦙 </think>'
    assert resumed(ROLE + text(said))["messages"][1]["content"] == said


def test_a_beginning_by_the_client_was_echoed_and_is_not_doubled():
    begun = {"role": "assistant", "content": "On"}
    assert resumed(text("Once", " upon"), QUESTION, begun)["messages"] == [
        QUESTION,
        {"role": "assistant", "content": "Once upon"},
    ]


def test_a_beginning_by_the_client_in_parts_is_text_too():
    begun = {"role": "assistant", "content": [{"type": "text", "text": "On"}, {"type": "text", "text": "ce"}]}
    (_, said) = resumed(text("On\n\nce upon"), QUESTION, begun)["messages"]
    assert said["content"] == "On\n\nce upon"


def test_a_beginning_that_the_client_told_to_continue_was_not_echoed():
    begun = {"role": "assistant", "content": "On"}
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert resumed(text("ce", " upon"), QUESTION, begun, **fields)["messages"][1]["content"] == "Once upon"
    assert (
        resumed(text("Once", " upon"), QUESTION, begun, echo=True, **fields)["messages"][1]["content"]
        == "Once upon"
    )
    assert "echo" not in resumed(text("Once"), QUESTION, begun, echo=True, **fields)


def test_a_beginning_by_the_client_that_is_not_in_the_answer_is_refused():
    assert "own last message" in refused(text("Else"), QUESTION, {"role": "assistant", "content": "On"})


def test_tools_are_no_obstacle_until_a_call_has_begun():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert resumed(ROLE + text("I"), tools=tools)["tools"] == tools
    call = chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]})
    assert "tool call" in refused(ROLE + text("I") + call, tools=tools)
    assert "tool call" in refused(ROLE + call, tools=tools)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"logprobs": True, "top_logprobs": 2}, "probabilities"),
        ({"n_probs": 1}, "probabilities"),
        ({"verbose": True}, "verbose"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
    ],
)
def test_what_has_no_right_second_half_is_refused_only_where_there_is_a_seam(
    fields: dict[str, Any], why: str
):
    assert why in refused(ROLE + text("Once"), **fields)
    assert resumed(ROLE, **fields) == {"stream": True, "messages": [QUESTION], **fields}


@pytest.mark.parametrize("fields", [{"n": 2}, {"n_cmpl": 3}, {"n": "x"}, {"n": True}])
def test_several_completions_are_refused_at_once(fields: dict[str, Any]):
    with pytest.raises(CannotContinue):
        continuation(b"", **fields)
    continuation(b"", n=1)
    continuation(b"", n=None)


def test_thinking_that_is_part_of_the_text_is_refused():
    assert "thinking" in refused(ROLE + text("<think>\n", "Well"), reasoning_format="none")


def test_a_second_choice_is_not_understood():
    other = ROLE.replace(b'"index": 0', b'"index": 1')
    with pytest.raises(CannotContinue):
        continuation(other)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"max_tokens": 10}, 8),
        ({"max_completion_tokens": 7}, 5),
        ({"max_completion_tokens": 7, "max_tokens": 10}, 5),
        ({"n_predict": 5, "max_completion_tokens": 7, "max_tokens": 10}, 3),
        ({"n_predict": None, "max_tokens": 10.0}, 8),
    ],
)
def test_the_limit_that_llama_server_reads_is_reduced_and_the_others_go(fields: dict[str, Any], left: int):
    body = resumed(ROLE + text("Once", " upon"), **fields)
    assert {
        name: body[name] for name in body if name in {"n_predict", "max_completion_tokens", "max_tokens"}
    } == {"max_tokens": left}


@pytest.mark.parametrize("fields", [{}, {"max_tokens": -1}, {"max_tokens": None}])
def test_without_a_limit_there_is_none_afterwards(fields: dict[str, Any]):
    assert resumed(ROLE + text("Once"), **fields).get("max_tokens") == fields.get("max_tokens")


def test_timings_count_the_tokens_that_made_no_chunk():
    sent = ROLE + chunk({"content": "🦙"}, timings={"predicted_n": 4})
    assert resumed(sent, max_tokens=10, timings_per_token=True)["max_tokens"] == 6


def test_the_tag_between_thinking_and_text_is_counted():
    assert resumed(ROLE + thinking("a") + text("b"), max_tokens=10)["max_tokens"] == 10 - 4
    assert resumed(ROLE + thinking("a") + text("\n\nb"), max_tokens=10)["max_tokens"] == 10 - 3


def test_the_last_text_before_a_stop_string_shows_by_its_timings():
    """So the new generation is asked for the ending only, and not to write past the stop."""
    timings = {"predicted_n": 3, "predicted_ms": 3.0, "prompt_n": 1}
    stopping = continuation(
        ROLE + text("Once") + chunk({"content": " upon"}, timings=timings), stop=["a time"]
    )
    assert json.loads(stopping.resume().body)["max_tokens"] == 1
    got = stopping.feed(ROLE + text(" a") + chunk({}, "length", timings=timings) + b"data: [DONE]\n\n")
    assert b" a" not in got
    assert b'"finish_reason":"stop"' in got
    assert stopping.end()


def test_only_usage_and_the_end_are_asked_for_once_the_reason_has_been_sent():
    asked = continuation(
        ROLE + text("Once", " upon") + chunk({}, "stop"), stream_options={"include_usage": True}
    )
    assert json.loads(asked.resume().body)["max_tokens"] == 1
    usage = {"completion_tokens": 1, "prompt_tokens": 7, "total_tokens": 8}
    last = b"data: %b\n\n" % json.dumps({"choices": [], "id": "two", "usage": usage}).encode()
    got = asked.feed(ROLE + text(" more") + chunk({}, "length") + last + b"data: [DONE]\n\n")
    summed = b'{"completion_tokens":2,"prompt_tokens":5,"total_tokens":7}'
    assert (
        got
        == b': llmsup-continued\n\ndata: {"choices":[],"id":"one","usage":%b}\n\ndata: [DONE]\n\n' % summed
    )


def test_a_tool_call_of_the_new_generation_is_passed_on_and_cannot_be_continued():
    begun = continuation(ROLE + text("I"))
    begun.resume()
    call = chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]})
    assert b"tool_calls" in begun.feed(call)
    with pytest.raises(CannotContinue, match="tool call"):
        begun.resume()


def test_progress_of_the_prompt_is_shown_until_the_answer_has_begun():
    progress = chunk({"role": "assistant", "content": None}, prompt_progress={})
    begun = continuation(ROLE + text("I"), return_progress=True)
    begun.resume()
    assert begun.feed(progress) == b": llmsup-continued\n\n"
    new = continuation(b"", return_progress=True)
    new.resume()
    assert b'"prompt_progress"' in new.feed(progress)


@pytest.mark.parametrize("messages", [None, [], "text", [1], {}])
def test_messages_that_are_none_are_refused(messages: Any):
    body = json.dumps({"stream": True, "messages": messages}).encode()
    with pytest.raises(CannotContinue):
        Continuation(PATH, body, ROLE + text("I")).resume()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"stream":false}', b'{"stream":1}', b"\xff", b'{"stream":true,"n":1e999}']
)
def test_requests_that_asked_for_no_stream_are_refused(body: bytes):
    with pytest.raises(CannotContinue):
        Continuation(PATH, body, b"")
