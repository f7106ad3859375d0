"""`proxy.continuation.messages`: what is repeated is taken off again, and open blocks stay open."""

import json
from typing import Any

import pytest

from supervisor.proxy.continuation import CannotContinue, Continuation

QUESTION = {"role": "user", "content": "?"}
MARK = b": llmsup-continued\n\n"


def event(kind: str, **data: Any) -> bytes:
    text = json.dumps({"type": kind, **data}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {text}\n\n".encode()


def start(name: str) -> bytes:
    return event("message_start", message={"id": name, "usage": {"input_tokens": 3, "output_tokens": 0}})


def block(index: int, kind: str) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, kind: ""})


def delta(index: int, kind: str, piece: str) -> bytes:
    return event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: piece})


def signature(index: int) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": ""})


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


def last(tokens: int, reason: str = "end_turn") -> bytes:
    why = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=why, usage={"output_tokens": tokens}) + event("message_stop")


TEXT = start("one") + block(0, "text") + delta(0, "text", "Once")
THINKING = start("one") + block(0, "thinking") + delta(0, "thinking", "Well")
BOTH = THINKING + block(1, "text") + delta(1, "text", "Once")


def asked(sent: bytes, *messages: Any, **fields: Any) -> tuple[Continuation, dict[str, Any]]:
    body = {"stream": True, "messages": list(messages) or [QUESTION], **fields}
    continuation = Continuation(b"/v1/messages", json.dumps(body).encode(), sent)
    return continuation, json.loads(continuation.resume().body)


def test_the_text_goes_back_as_the_beginning_of_the_answer():
    _, body = asked(TEXT, max_tokens=9)
    assert body == {
        "stream": True,
        "messages": [QUESTION, {"role": "assistant", "content": "Once"}],
        "max_tokens": 8,
    }


def test_what_is_repeated_is_not_passed_on():
    continuation, _ = asked(TEXT)
    again = (
        start("two")
        + block(0, "text")
        + delta(0, "text", "Once upon")
        + delta(0, "text", " a")
        + stop(0)
        + last(2)
    )
    assert continuation.feed(again) == MARK + delta(0, "text", " upon") + delta(0, "text", " a") + stop(
        0
    ) + last(3)
    assert continuation.end()


def test_what_is_repeated_may_come_in_pieces():
    continuation, _ = asked(TEXT)
    again = (
        start("two")
        + block(0, "text")
        + delta(0, "text", "On")
        + delta(0, "text", "ce")
        + delta(0, "text", "!")
    )
    assert continuation.feed(again) == MARK + delta(0, "text", "!")


def test_something_else_than_what_was_sent_is_not_passed_on():
    continuation, _ = asked(TEXT)
    assert continuation.feed(start("two") + block(0, "text") + delta(0, "text", "Twice upon")) == MARK
    assert continuation.broken
    assert not continuation.end()


def test_unfinished_thinking_goes_on_in_its_block():
    continuation, body = asked(THINKING)
    assert body["messages"][-1] == {"role": "assistant", "content": "", "reasoning_content": "Well"}
    again = (
        start("two")
        + block(0, "thinking")
        + delta(0, "thinking", "Well, so")
        + block(1, "text")
        + delta(1, "text", "A")
    )
    assert continuation.feed(again) == MARK + delta(0, "thinking", ", so") + block(1, "text") + delta(
        1, "text", "A"
    )


def test_the_line_break_after_repeated_thinking_is_not_passed_on():
    continuation, body = asked(BOTH)
    assert body["messages"][-1] == {"role": "assistant", "content": "Once", "reasoning_content": "Well"}
    again = (
        start("two")
        + block(0, "thinking")
        + delta(0, "thinking", "Well\n")
        + block(1, "text")
        + delta(1, "text", "Once!")
    )
    again += signature(0) + stop(0) + stop(1) + last(1)
    assert continuation.feed(again) == MARK + delta(1, "text", "!") + signature(0) + stop(0) + stop(1) + last(
        1 + 4
    )


def test_a_beginning_by_the_client_was_repeated_to_it():
    begun = {"role": "assistant", "content": [{"type": "text", "text": "On"}]}
    _, body = asked(TEXT, QUESTION, begun)
    assert body["messages"] == [QUESTION, {"role": "assistant", "content": "Once"}]
    with pytest.raises(CannotContinue, match="own last message"):
        asked(TEXT, QUESTION, {"role": "assistant", "content": "Else"})


def test_llama_servers_own_limit_counts_where_none_was_asked():
    assert asked(TEXT)[1]["max_tokens"] == 4096 - 1


def test_a_reached_limit_is_told_without_more_text():
    continuation, body = asked(TEXT, max_tokens=1)
    assert body["max_tokens"] == 1
    again = start("two") + block(0, "text") + delta(0, "text", "Once upon") + stop(0) + last(1)
    assert continuation.feed(again) == MARK + stop(0) + last(1, "max_tokens")


def test_a_tool_call_that_has_begun_is_refused():
    with pytest.raises(CannotContinue, match="tool call"):
        asked(TEXT + block(1, "tool_use"))


def test_closed_blocks_without_a_reason_are_refused():
    with pytest.raises(CannotContinue, match="reason"):
        asked(TEXT + stop(0))


def test_only_the_last_event_is_missing_after_the_reason():
    reason, end, _ = (part + b"\n\n" for part in last(1).split(b"\n\n"))
    continuation, _ = asked(TEXT + stop(0) + reason)
    again = start("two") + block(0, "text") + delta(0, "text", "Once upon") + stop(0) + last(1)
    assert continuation.feed(again) == MARK + end
    assert continuation.end()


def test_only_started_means_asked_again_as_it_was():
    continuation, body = asked(start("one"))
    assert body == {"stream": True, "messages": [QUESTION]}
    again = start("two") + block(0, "text") + delta(0, "text", "Once") + stop(0) + last(1)
    assert continuation.feed(again) == MARK + block(0, "text") + delta(0, "text", "Once") + stop(0) + last(1)


def test_text_where_thinking_is_open_breaks_it():
    continuation, _ = asked(THINKING)
    assert continuation.feed(block(0, "text") + delta(0, "text", "Once")) == MARK
    assert continuation.broken
