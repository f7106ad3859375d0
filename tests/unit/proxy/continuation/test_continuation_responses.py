"""`proxy.continuation.responses`: the answer goes back as output items; ids stay, and the end is whole."""

import json
from typing import Any

import pytest

from supervisor.proxy.continuation import CannotContinue, Continuation

MARK = b": llmsup-continued\n\n"
USER = {"role": "user", "content": "?"}


def event(kind: str, **data: Any) -> bytes:
    text = json.dumps({"type": kind, **data}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {text}\n\n".encode()


def opening(name: str) -> bytes:
    response = {"id": f"resp_{name}", "object": "response", "status": "in_progress"}
    return event("response.created", response=response) + event("response.in_progress", response=response)


def added(kind: str, name: str) -> bytes:
    item = event("response.output_item.added", item={"type": kind, "id": f"{kind}_{name}", "content": []})
    return item + (
        event("response.content_part.added", item_id=f"{kind}_{name}", part={}) if kind == "message" else b""
    )


def text(piece: str, name: str) -> bytes:
    return event("response.output_text.delta", item_id=f"message_{name}", delta=piece)


def reasoning(piece: str, name: str) -> bytes:
    return event("response.reasoning_text.delta", delta=piece, item_id=f"reasoning_{name}")


def item(kind: str, name: str, said: str) -> dict[str, Any]:
    return {"type": kind, "id": f"{kind}_{name}", "content": [{"text": said, "type": "x"}]}


def ending(name: str, said: str, thought: str = "", usage: tuple[int, int] = (5, 1)) -> bytes:
    out, items = b"", []
    if thought:
        items.append(item("reasoning", name, thought))
        out += event("response.output_item.done", item=items[-1])
    if said:
        items.append(item("message", name, said))
        out += event("response.output_text.done", item_id=f"message_{name}", text=said)
        out += event("response.content_part.done", item_id=f"message_{name}", part={"text": said})
        out += event("response.output_item.done", item=items[-1])
    numbers = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
    response = {"id": f"resp_{name}", "status": "completed", "output": items, "usage": numbers}
    return out + event("response.completed", response=response)


TEXT = opening("a") + added("message", "a") + text("Once", "a")
THINKING = opening("a") + added("reasoning", "a") + reasoning("Well", "a")
BOTH = THINKING + added("message", "a") + text("Once", "a")


def asked(sent: bytes, given: Any = "?", **fields: Any) -> tuple[Continuation, dict[str, Any]]:
    body = json.dumps({"stream": True, "input": given, **fields}).encode()
    continuation = Continuation(b"/v1/responses", body, sent)
    return continuation, json.loads(continuation.resume().body)


def test_the_text_goes_back_as_an_output_item_to_be_continued():
    _, body = asked(TEXT, max_output_tokens=9, instructions="Be.")
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Once"}]}
    assert body == {
        "stream": True,
        "input": [USER, said],
        "instructions": "Be.",
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_output_tokens": 8,
    }


def test_thinking_goes_back_behind_the_text_it_belongs_to():
    items = asked(BOTH, [USER])[1]["input"]
    assert [entry.get("type") for entry in items] == [None, "message", "reasoning"]
    assert items[2]["content"][0]["text"] == "Well"
    assert [entry.get("type") for entry in asked(THINKING, [USER])[1]["input"]] == [None, "reasoning"]


def test_items_are_opened_once_and_keep_their_ids_and_the_end_is_whole():
    continuation, _ = asked(TEXT)
    again = opening("b") + added("message", "b") + text(" upon", "b") + ending("b", "Once upon")
    assert continuation.feed(again) == MARK + text(" upon", "a") + ending("a", "Once upon", usage=(4, 2))
    assert continuation.end()


def test_the_end_is_made_whole_where_the_new_generation_told_only_its_part():
    continuation, _ = asked(BOTH)
    again = opening("b") + added("message", "b") + text(" upon", "b") + ending("b", " upon", "Well\n")
    assert continuation.feed(again) == MARK + text(" upon", "a") + ending(
        "a", "Once upon", "Well", usage=(1, 5)
    )


def test_an_item_that_begins_in_the_new_generation_has_its_id():
    continuation, _ = asked(THINKING)
    again = (
        opening("b")
        + added("reasoning", "b")
        + reasoning("!", "b")
        + added("message", "b")
        + text("Once", "b")
    )
    assert continuation.feed(again) == MARK + reasoning("!", "a") + added("message", "b") + text("Once", "b")


def test_a_reached_limit_is_told_without_more_text():
    continuation, body = asked(TEXT, max_output_tokens=1)
    assert body["max_output_tokens"] == 1
    again = opening("b") + added("message", "b") + text(" upon", "b") + ending("b", "Once upon")
    assert continuation.feed(again) == MARK + ending("a", "Once", usage=(4, 1))


def test_events_of_the_end_that_were_sent_are_not_sent_again():
    first, second, *_ = (part + b"\n\n" for part in ending("a", "Once", usage=(4, 1)).split(b"\n\n"))
    continuation, _ = asked(TEXT + first + second)
    again = opening("b") + added("message", "b") + text(" upon", "b") + ending("b", "Once upon")
    whole = ending("a", "Once", usage=(4, 1))
    assert continuation.feed(again) == MARK + whole.removeprefix(first + second)


def test_a_beginning_by_the_client_was_echoed_and_is_not_doubled():
    begun = {"type": "message", "role": "assistant", "content": "On"}
    items = asked(TEXT, [USER, begun])[1]["input"]
    assert len(items) == 2
    assert items[1]["content"][0]["text"] == "Once"
    with pytest.raises(CannotContinue, match="own last message"):
        asked(TEXT, [USER, {**begun, "content": [{"type": "output_text", "text": "Else"}]}])
    with pytest.raises(CannotContinue, match="several output items"):
        asked(TEXT, [USER, begun, begun])


def test_a_tool_call_that_has_begun_is_refused():
    with pytest.raises(CannotContinue, match="tool call"):
        asked(TEXT + added("function_call", "a"))


def test_each_of_several_tool_calls_of_the_new_generation_is_closed():
    continuation, _ = asked(TEXT)
    calls = [{"type": "function_call", "id": f"fc_{n}", "arguments": "{}"} for n in (1, 2)]
    done = b"".join(event("response.output_item.done", item=call) for call in calls)
    continuation.feed(opening("b"))
    assert continuation.feed(done) == done


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"max_output_tokens": 9, "max_tokens": 5}, 8),
        ({"max_tokens": 5}, 4),
        ({"max_output_tokens": None, "max_tokens": 5}, None),
        ({"n_predict": 3, "max_output_tokens": 9}, 2),
    ],
)
def test_the_limit_that_llama_server_reads_is_reduced(fields: dict[str, Any], left: int | None):
    assert asked(TEXT, **fields)[1].get("max_output_tokens") == left


def test_numbered_events_go_on_counting():
    """As newer servers and OpenAI do."""
    continuation, _ = asked(
        TEXT + event("response.output_text.delta", item_id="message_a", delta=",", sequence_number=6)
    )
    continuation.feed(opening("b"))
    more = b"".join(
        event("response.output_text.delta", item_id="message_b", delta="x", sequence_number=n) for n in (4, 5)
    )
    got = [
        json.loads(part.partition(b"data: ")[2]) for part in continuation.feed(more).split(b"\n\n") if part
    ]
    assert [told["sequence_number"] for told in got] == [7, 8]


def test_the_end_of_thinking_is_whole_too():
    continuation, _ = asked(BOTH)
    got = continuation.feed(event("response.reasoning_text.done", item_id="reasoning_b", text="ll"))
    assert got == MARK + event("response.reasoning_text.done", item_id="reasoning_a", text="Well")


def test_an_item_that_only_an_ending_began_is_not_shown():
    continuation, _ = asked(THINKING, max_output_tokens=1)
    again = opening("b") + added("message", "b") + text("Once", "b") + ending("b", "Once", "Well\n")
    assert continuation.feed(again) == MARK + ending("a", "", "Well", usage=(4, 1))
