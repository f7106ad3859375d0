"""`proxy.assembly`: recorded streams become, byte for byte, what llama-server answered unstreamed."""

import json
import re

import pytest

from supervisor.proxy.assembly import Assembly, Incomplete, TooLong, Unknown, Unsure, answer
from tests.support.assembly import CHAT, RECORDED, normalised, taken_together

ROWS = json.loads(RECORDED.read_text())
SURE = [row for row in ROWS if row["sure"]]


def first(path, **wanted):
    """The first sure recording of a path with these options."""
    rows = (row for row in SURE if row["path"] == path and wanted.items() <= row["body"].items())
    return next(rows)


def named(row):
    return row["name"]


@pytest.mark.parametrize("row", SURE, ids=named)
def test_equals_the_unstreamed_answer(row):
    assert taken_together(row["path"], row["body"], row["stream"].encode()) == (
        200,
        normalised(row["direct"].encode()),
    )


def test_every_form_was_recorded():
    assert {row["path"] for row in SURE} >= {
        "/completion", "/completions", "/infill", "/v1/completions", "/chat/completions",
        "/v1/chat/completions", "/v1/messages", "/responses", "/v1/responses",
    }  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if not row["sure"]], ids=named)
def test_says_that_something_may_be_missing(row):
    with pytest.raises(Unsure) as unsure:
        taken_together(row["path"], row["body"], row["stream"].encode())
    assert unsure.value.probable is None or json.loads(unsure.value.probable)


@pytest.mark.parametrize("size", [1, 2, 7, 100, 4096])
def test_any_split_gives_the_same(size):
    row = first(CHAT)
    stream, assembly = row["stream"].encode(), Assembly(CHAT.encode(), row["body"])
    for start in range(0, len(stream), size):
        assembly.add(stream[start : start + size])
    _, body = assembly.result()
    assert normalised(body) == normalised(row["direct"].encode())


def test_numbers_keep_the_digits_they_came_with():
    row = first("/v1/completions", logprobs=3)
    _, text = taken_together(row["path"], row["body"], row["stream"].encode())
    logprobs = text[text.index('"logprobs":') : text.index('"finish_reason":')]
    assert logprobs.count('"logprob":-') > 3
    assert logprobs in row["direct"]


def test_pings_are_no_events():
    row = first(CHAT)
    stream = (":\n\n" + row["stream"].replace("\n\n", "\n\n:\n\n")).encode()
    assert taken_together(CHAT, row["body"], stream)[1] == normalised(row["direct"].encode())


@pytest.mark.parametrize("row", SURE, ids=named)
def test_a_stream_without_its_end_is_incomplete(row):
    """Cut before the last event, after nothing, and inside the last event."""
    events = row["stream"].encode().split(b"\n\n")[:-1]
    for cut in (events[:-1], [], [*events[:-1], events[-1][:-3]]):
        stream = b"\n\n".join(cut) + (b"\n\n" if cut == events[:-1] and cut else b"")
        with pytest.raises(Incomplete) as incomplete:
            taken_together(row["path"], row["body"], stream)
        assert not isinstance(incomplete.value, Unsure)


def test_a_stream_cut_within_a_character_is_incomplete():
    with pytest.raises(Incomplete, match="character"):
        taken_together(CHAT, {}, 'data: "ü'.encode()[:-1])


ERROR = '{"code":500,"message":"Context size has been exceeded.","type":"server_error"}'


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", CHAT, "/v1/responses"])
def test_an_error_event_is_the_answer(path):
    """As llama-server sends it when the shared context overflows in mid-answer."""
    row = first(path)
    begun = row["stream"].split("\n\n")[0]
    stream = f'{begun}\n\ndata: {{"error":{ERROR}}}\n\n'
    assert taken_together(path, {}, stream.encode()) == (500, f'{{"error":{ERROR}}}')


def test_an_error_event_of_messages_is_wrapped():
    stream = f"event: error\ndata: {ERROR.replace('500', '400')}\n\n"
    expected = (400, f'{{"error":{ERROR.replace("500", "400")}}}')
    assert taken_together("/v1/messages", {}, stream.encode()) == expected


@pytest.mark.parametrize("code", ["", '"code":200,', '"code":"x",', '"code":700,'])
def test_an_error_without_an_errors_status_is_500(code):
    assert taken_together(CHAT, {}, f'data: {{"error":{{{code}"message":"x"}}}}\n\n'.encode())[0] == 500


def test_an_error_that_only_streams_have_is_no_answer():
    error = '{"error":{"code":500,"message":"Invalid diff: now finding less tool calls!"}}'
    with pytest.raises(Unsure, match="parser"):
        taken_together(CHAT, {}, f"data: {error}\n\n".encode())


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (
            CHAT,
            '"object":"chat.completion.chunk","usage"',
            '"object":"chat.completion.chunk","new":1,"usage"',
        ),
        (CHAT, '"delta":{}', '"delta":{"audio":1}'),
        (CHAT, '"finish_reason":"length"', '"finish_reason":"length","new":1'),
        (CHAT, '"usage":{', '"usages":{'),
        ("/completion", '"has_new_line"', '"completion_probabilities":[],"has_new_line"'),
        ("/completion", '"stop":false', '"new":1,"stop":false'),
        ("/completion", '"stop":true', '"stopped":true'),
        ("/v1/completions", '"usage":{', '"usages":{'),
        ("/v1/messages", '"type":"message_start"', '"type":"message_began"'),
        ("/v1/messages", '"type":"text_delta"', '"type":"sound_delta"'),
        ("/v1/messages", '"stop_reason":null', '"new":1,"stop_reason":null'),
        ("/v1/responses", '"object":"response","created_at"', '"object":"response","new":1,"created_at"'),
        ("/v1/responses", '"annotations":[]', '"annotations":[}'),
    ],
)
def test_what_a_newer_version_may_add_is_never_guessed_at(path, old, new):
    row = first(path)
    assert old in row["stream"]
    with pytest.raises(Unknown):
        taken_together(path, row["body"], row["stream"].replace(old, new).encode())


@pytest.mark.parametrize("path", ["/completion", CHAT, "/v1/messages"])
def test_a_limited_answer_whose_last_text_did_not_come_is_unsure(path):
    """As happens when its end looks like the beginning of a stop string."""
    row = first(path)
    events = row["stream"].split("\n\n")
    marks = {"/completion": '"stop":false', CHAT: '"delta":{"content":"', "/v1/messages": "text_delta"}
    last = max(at for at, event in enumerate(events) if marks[path] in event)
    whole = json.loads(row["direct"])
    del events[last]
    with pytest.raises(Unsure) as unsure:
        taken_together(path, row["body"], "\n\n".join(events).encode())
    assert unsure.value.probable is not None
    assert json.loads(unsure.value.probable).keys() == whole.keys()


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_a_limited_text_whose_last_token_brought_nothing_is_unsure(path):
    row = first(path)
    mark, text = ('"content":"', '","tokens"') if path == "/completion" else ('"text":"', '","index"')
    events = row["stream"].split("\n\n")
    last = max(at for at, event in enumerate(events) if mark + text not in event and mark in event)
    start = events[last].index(mark) + len(mark)
    events[last] = events[last][:start] + events[last][events[last].index(text) :]
    with pytest.raises(Unsure, match="brought no text"):
        taken_together(path, row["body"], "\n\n".join(events).encode())


def test_a_settings_flag_that_only_streams_have_is_taken_back():
    row = first("/completion")
    stream = row["stream"].replace('"reasoning_in_content":false', '"reasoning_in_content":true')
    assert stream != row["stream"]
    assert taken_together("/completion", row["body"], stream.encode())[1] == normalised(
        row["direct"].encode()
    )


def test_a_token_without_probabilities_is_unsure():
    row = first("/completion", n_probs=3)
    stream = re.sub(r',"completion_probabilities":\[.*\]\}', "}", row["stream"], count=1)
    with pytest.raises(Unsure, match="no probabilities"):
        taken_together("/completion", row["body"], stream.encode())


def test_probabilities_up_to_a_stop_string_of_the_servers_own_are_unsure():
    row = first("/completion", n_probs=3)
    stream = row["stream"].replace('"stop_type":"limit"', '"stop_type":"word"')
    with pytest.raises(Unsure, match="stop string"):
        taken_together("/completion", row["body"], stream.encode())


def test_a_choice_without_its_end_is_incomplete():
    row = first(CHAT, n=3)
    events = row["stream"].split("\n\n")
    end = next(at for at, event in enumerate(events) if '"finish_reason":"' in event and '"index":1' in event)
    del events[end : end + 2]
    with pytest.raises(Incomplete, match="no end"):
        taken_together(CHAT, row["body"], "\n\n".join(events).encode())


def test_what_follows_the_end_is_not_complete_either():
    with pytest.raises(Incomplete, match="cut"):
        taken_together(CHAT, {}, (first(CHAT)["stream"] + "data: {").encode())


def test_a_fraction_that_would_have_to_be_printed_again_is_not_guessed_at():
    stream = chat_stream({"content": "x"}, tokens=1, finish="stop").replace(
        b'"completion_tokens":1', b'"completion_tokens":1,"x":1.5'
    )
    with pytest.raises(Unknown):
        taken_together(CHAT, {}, stream)


def test_a_message_that_never_started_is_unsure():
    """It is not, when the first token is half a character."""
    row = first("/v1/messages")
    stream = row["stream"].split("\n\n", 1)[1]
    with pytest.raises(Unsure, match="never started"):
        taken_together("/v1/messages", row["body"], stream.encode())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_nothing_parsed_is_unsure(path):
    row = first(path)
    events = [event for event in row["stream"].split("\n\n") if "text_delta" not in event]
    stream = re.sub(r'"output":\[.*\],"usage"', '"output":[],"usage"', "\n\n".join(events))
    stream = stream.replace('"max_tokens"', '"end_turn"')
    with pytest.raises(Unsure, match="unparsed"):
        taken_together(path, {}, stream.encode())


def test_no_message_at_all_is_unsure():
    """llama-server falls back on the unparsed text then, which no event has."""
    events = [event for event in first(CHAT)["stream"].split("\n\n") if '"delta":{"content"' not in event]
    stream = "\n\n".join(events).replace('"finish_reason":"length"', '"finish_reason":"stop"')
    with pytest.raises(Unsure, match="unparsed"):
        taken_together(CHAT, {}, stream.encode())


def test_too_much_is_refused_and_let_go(monkeypatch):
    monkeypatch.setattr(answer, "MAX_STREAM_BYTES", 10)
    assembly = Assembly(CHAT.encode(), {})
    assembly.add(b"123456")
    with pytest.raises(TooLong):
        assembly.add(b"78901")
    assert "in 0 parts" in repr(assembly)


def tool_stream(arguments):
    """A message that calls a tool with these arguments, as llama-server streams it."""
    events = [
        {"type": "message_start", "message": {
            "id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "model": "m",
            "stop_reason": None, "stop_sequence": None,
            "usage": {"cache_read_input_tokens": 3, "input_tokens": 4, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "w"}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": part}}
          for part in (arguments[:3], arguments[3:])),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
         "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events
    ).encode()


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{ "city" : "Köln\\u0041" , "days":3 }', '{"city":"KölnA","days":3}'),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"a":-0,"b":18446744073709551615}', '{"a":0,"b":18446744073709551615}'),
        ('{"cut', "{}"),
        ('{"a":NaN}', "{}"),
        ('{"a":"\\ud800"}', "{}"),
    ],
)
def test_tool_input_is_parsed_and_written_again(arguments, written):
    status, text = taken_together("/v1/messages", {}, tool_stream(arguments))
    assert status == 200
    assert f'"content":[{{"type":"tool_use","id":"t","name":"w","input":{written}}}]' in text
    assert text.endswith('"usage":{"cache_read_input_tokens":3,"input_tokens":4,"output_tokens":9}}')


@pytest.mark.parametrize("number", ["1.5", "1e3", "18446744073709551616", "-9223372036854775809", "9" * 5000])
def test_tool_input_with_a_number_it_would_print_otherwise_is_unsure(number):
    with pytest.raises(Unsure, match="number"):
        taken_together("/v1/messages", {}, tool_stream(f'{{"a":{number}}}'))


def test_tool_input_too_deep_is_unsure():
    with pytest.raises(Unsure, match="deep"):
        taken_together("/v1/messages", {}, tool_stream("[" * 100_000))


def chat_stream(*deltas, finish="tool_calls", tokens=9):
    head = {"created": 1, "id": "chatcmpl-1", "model": "m", "system_fingerprint": "b", "object": "o"}
    events = [
        *({"choices": [{"finish_reason": None, "index": 0, "delta": delta}], **head} for delta in deltas),
        {"choices": [{"finish_reason": finish, "index": 0, "delta": {}}], **head},
        {"choices": [], **head, "usage": {"completion_tokens": tokens}},
    ]
    written = (f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events)
    return ("".join(written) + "data: [DONE]\n\n").encode()


def test_tool_calls_are_put_together():
    """The name comes again when it has grown; arguments come in pieces; ids once."""
    stream = chat_stream(
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "wea"}}]},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "weather"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"ü"}'}}]},
        {"tool_calls": [{"index": 1, "type": "function", "function": {"name": "n", "arguments": "{}"}}]},
    )
    _, text = taken_together(CHAT, {}, stream)
    assert (
        '"message":{"role":"assistant","content":"","tool_calls":['
        '{"type":"function","function":{"name":"weather","arguments":"{\\"x\\":\\"ü\\"}"},"id":"a"},'
        '{"type":"function","function":{"name":"n","arguments":"{}"}}]}' in text
    )


def test_a_tool_call_left_out_is_unsure():
    with pytest.raises(Unknown, match="left out"):
        taken_together(CHAT, {}, chat_stream({"tool_calls": [{"index": 1, "function": {"name": "n"}}]}))


def test_a_choice_left_out_is_incomplete():
    with pytest.raises(Incomplete):
        taken_together(CHAT, {}, chat_stream({"content": "x"}).replace(b'"index":0', b'"index":1'))
