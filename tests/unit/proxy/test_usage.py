"""`proxy.usage`: figures out of real answers' bytes, whole or only their end, and never out of what was said in them."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.assembly import Assembly
from supervisor.proxy.continuation import sse
from supervisor.proxy.usage import TAIL_BYTES, Meter, Usage, of_body, of_events
from tests.support.assembly import RECORDED

ROWS: list[dict[str, Any]] = json.loads(RECORDED.read_text())
ONE_CHOICE = [row for row in ROWS if " several, " not in row["name"] and " prompts, " not in row["name"]]

# As llama-server 0.5.0-dev has written them, asked twice so that the prompt is cached.
TIMINGS = (
    b'"timings":{"cache_n":10,"prompt_n":1,"prompt_ms":0.416,"prompt_per_token_ms":0.416,'
    b'"prompt_per_second":2403.846153846154,"predicted_n":3,"predicted_ms":0.648,'
    b'"predicted_per_token_ms":0.324,"predicted_per_second":3086.41975308642}'
)
CHAT_BODY = (
    b'{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":"Later, my"}}],'
    b'"created":1795274461,"model":"demo","system_fingerprint":"b0-0c1e570","object":"chat.completion",'
    b'"usage":{"completion_tokens":3,"prompt_tokens":11,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":10}},'
    b'"id":"chatcmpl-BA5huaNUHnncG7MPYJOR66k6e7BpoTbs",' + TIMINGS + b"}"
)
MESSAGES_BODY = (
    b'{"id":"chatcmpl-cvSS80T53TPqNRHMffWZa6wUxWAmT70Z","type":"message","role":"assistant",'
    b'"content":[{"type":"text","text":"Later, my"}],"model":"demo","stop_reason":"max_tokens","stop_sequence":null,'
    b'"usage":{"cache_read_input_tokens":10,"input_tokens":1,"output_tokens":3}}'
)
RESPONSES_BODY = (
    b'{"completed_at":1795274461,"created_at":1795274461,"id":"resp_NzSw8DSemiKAVg7XNVyeBSnPRk2ppeA2","model":"demo",'
    b'"object":"response","output":[{"content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Later, the"}],'
    b'"id":"msg_Nf5HR8uqBycHPJRcAujNLUjJYzmv1YQV","role":"assistant","status":"completed","type":"message"}],'
    b'"status":"completed","usage":{"input_tokens":11,"output_tokens":3,"total_tokens":14,'
    b'"input_tokens_details":{"cached_tokens":10}}}'
)
EMBEDDINGS = b'{"model":"demo","object":"list","usage":{"prompt_tokens":4,"total_tokens":4},"data":[{"embedding":[0.0,0.33'
RANKS = (
    b'{"model":"demo","object":"list","usage":{"prompt_tokens":6,"total_tokens":6},'
    b'"results":[{"index":0,"relevance_score":0.0},{"index":1,"relevance_score":0.0}]}'
)
CHUNK = b'"created":1795274461,"id":"chatcmpl-Q0xYmGwATb2Zv6hfaQPTHJsjJFQ8d8Am","model":"demo","object":"chat.completion.chunk"'
PLAIN_END = (
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],%b,%b}\n\ndata: [DONE]\n\n'
    % (CHUNK, TIMINGS)
)
USAGE_END = (
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],%b}\n\ndata: {"choices":[],%b,'
    b'"usage":{"completion_tokens":3,"prompt_tokens":11,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":10}},'
    b"%b}\n\ndata: [DONE]\n\n" % (CHUNK, CHUNK, TIMINGS)
)
RESPONSES_END = b'event: response.completed\ndata: {"type":"response.completed","response":%b,%b}\n\n' % (
    RESPONSES_BODY,
    TIMINGS,
)
MESSAGES_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"chatcmpl-WD7h","type":"message",'
    b'"role":"assistant","content":[],"model":"demo","stop_reason":null,"stop_sequence":null,'
    b'"usage":{"cache_read_input_tokens":10,"input_tokens":1,"output_tokens":0}}}\n\n'
)
MESSAGES_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Later"}}\n\n'
)
MESSAGES_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},'
    b'"usage":{"output_tokens":3}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
TOLD = Usage(prompt=11, completion=3, cached=10)
FALSE = b'"usage":{"completion_tokens":9,"prompt_tokens":99,"total_tokens":108,"prompt_tokens_details":{"cached_tokens":7}}'


def chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def events(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


def parsed_truth(row: dict[str, Any]) -> Usage:
    """What JSON says of the unstreamed answer; one choice's counts for each."""
    answers = json.loads(row["direct"])
    answers = answers if isinstance(answers, list) else [answers]
    return parsed_usage(*answers)


def parsed_usage(*answers: dict[str, Any]) -> Usage:
    prompt = completion = cached = 0
    for answer in answers:
        usage = answer.get("usage")
        if usage is None:
            prompt += answer["tokens_evaluated"]
            completion += answer["tokens_predicted"]
            cached += answer["timings"]["cache_n"]
        elif "cache_read_input_tokens" in usage:
            prompt += usage["input_tokens"] + usage["cache_read_input_tokens"]
            completion += usage["output_tokens"]
            cached += usage["cache_read_input_tokens"]
        elif "input_tokens" in usage:
            prompt += usage["input_tokens"]
            completion += usage["output_tokens"]
            cached += usage["input_tokens_details"]["cached_tokens"]
        else:
            prompt += usage["prompt_tokens"]
            completion += usage["completion_tokens"] * len(answer["choices"])
            cached += usage["prompt_tokens_details"]["cached_tokens"]
    told = len(answers) if "usage" not in answers[0] else 1
    return Usage(prompt, completion, cached, told)


# ---- unstreamed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_recorded_answer_tells_what_its_json_says(row: dict[str, Any]) -> None:
    assert of_body(row["direct"].encode()) == parsed_truth(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row["sure"]], ids=lambda row: row["name"])
def test_an_answer_assembled_here_tells_the_same(row: dict[str, Any]) -> None:
    assembly = Assembly(row["path"].encode(), row["body"])
    assembly.add(row["stream"].encode())
    body = assembly.result()[1]
    assert of_body(body) == parsed_truth({"direct": body})


@pytest.mark.parametrize("body", [CHAT_BODY, MESSAGES_BODY, RESPONSES_BODY])
def test_what_was_cached_is_told(body: bytes) -> None:
    assert of_body(body) == TOLD


@pytest.mark.parametrize("body", [CHAT_BODY, MESSAGES_BODY, RESPONSES_BODY])
def test_the_end_of_an_answer_suffices(body: bytes) -> None:
    long = body.replace(b"Later", b"Later " * 40_000)
    assert of_body(long) == of_body(long[-100_000:]) == of_body(long[-TAIL_BYTES:]) == TOLD


def test_figures_beside_each_other_are_told_apart_by_timings_when_usage_was_cut_off() -> None:
    assert of_body(CHAT_BODY[CHAT_BODY.index(b'"usage"') + 1 :]) == TOLD


def test_of_embeddings_and_ranks_the_beginning_tells() -> None:
    assert of_body(EMBEDDINGS + b",0.1" * 100_000 + b"]}]}") == of_body(EMBEDDINGS) == Usage(4, 0)
    assert of_body(RANKS) == Usage(6, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'[{"index":0,"embedding":[[0.0,0.33]]}]',
        b'[{"index":0,"score":0.0},{"index":1,"score":0.0}]',
        b'{"input_tokens":11,"object":"response.input_tokens"}',
        b'{"error":{"code":500,"message":"\\"usage\\":{","type":"server_error"}}',
        b'{"content":" Now,","tokens_predicted":2,"tokens_evaluated":6}',
        b'{"usage":{}}',
        b'{"usage":{"output_tokens":null}}',
        b'{"timings":{}}',
        b'[{"index":0,"content":"cut',
        b'{"model":"' + b"m" * 2000 + RANKS[10:],
    ],
)
def test_what_does_not_tell_is_not_guessed(body: bytes) -> None:
    assert of_body(body) is None


def test_another_order_of_the_figures_is_read_as_well() -> None:
    assert of_body(
        b'{"usage":{"prompt_tokens":11,"prompt_tokens_details":{"cached_tokens":10},"completion_tokens":3}}'
    ) == (TOLD)
    assert of_body(b'{"usage":{"total_tokens":14,"output_tokens":3,"input_tokens":11}}') == Usage(11, 3)
    assert of_body(b'{"timings":{"prompt_n":1,"predicted_n":3,"cache_n":10}}') == TOLD
    assert of_body(b'{"timings":{"prompt_n":11,"prompt_ms":0.4,"predicted_n":3}}') == Usage(11, 3)


# ---- streamed


@pytest.mark.parametrize("row", ONE_CHOICE, ids=lambda row: row["name"])
@pytest.mark.parametrize("cut", ["whole", "an event a block", "odd"])
@pytest.mark.parametrize("framed", [True, False])
def test_a_recorded_stream_tells_as_much_as_the_unstreamed_answer(
    row: dict[str, Any], cut: str, framed: bool
) -> None:
    one_by_one = [chunked(event) if framed else event for event in events(row["stream"].encode())]
    if framed:
        one_by_one.append(b"0\r\n\r\n")
    stream = b"".join(one_by_one)
    blocks = {
        "whole": [stream],
        "an event a block": one_by_one,
        "odd": [stream[at : at + 997] for at in range(0, len(stream), 997)],
    }[cut]
    meter = Meter(row["path"].encode())
    for block in blocks:
        meter.add(block)
    truth = parsed_truth(row)
    assert meter.usage() == truth
    assert meter.tokens <= truth.completion
    if row["path"] != "/v1/messages":
        assert of_events(stream[-TAIL_BYTES:]) == truth


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ONE_CHOICE], ids=lambda row: row["name"])
def test_of_several_choices_what_was_counted_is_told(row: dict[str, Any]) -> None:
    """An answer's figures are one choice's, as if the others had been for nothing."""
    meter = Meter(row["path"].encode())
    for event in events(row["stream"].encode()):
        meter.add(event)
    usage = meter.usage()
    assert usage is not None
    assert parsed_truth(row).completion - 1 <= usage.completion == meter.tokens


@pytest.mark.parametrize("end", [PLAIN_END, USAGE_END, RESPONSES_END])
def test_the_last_kibibyte_of_a_stream_tells(end: bytes) -> None:
    framed = b"".join(map(chunked, events(end))) + b"0\r\n\r\n"
    assert of_events(end) == of_events(framed) == of_events((b"x" * 5000 + framed)[-TAIL_BYTES:]) == TOLD


def test_the_end_of_messages_does_not_know_the_prompt() -> None:
    assert of_events(MESSAGES_END) == Usage(0, 3)


@pytest.mark.parametrize("size", [1, 50, 300, 5000])
def test_the_beginning_of_messages_does(size: int) -> None:
    stream = b":\n\n" + MESSAGES_START + MESSAGES_DELTA * 30 + MESSAGES_END
    meter = Meter(b"/v1/messages")
    for at in range(0, len(stream) - len(MESSAGES_END), size):
        meter.add(stream[at : min(at + size, len(stream) - len(MESSAGES_END))])
    meter.add(MESSAGES_END)
    usage = meter.usage()
    assert usage is not None
    assert (usage.prompt, usage.cached) == (11, 10)


def test_a_stream_without_a_beginning_is_not_kept() -> None:
    meter = Meter(b"/v1/messages")
    for _ in range(100):
        meter.add(b"x" * 100)
    meter.add(MESSAGES_START)
    meter.add(MESSAGES_END)
    assert meter.usage() == Usage(0, 3)


def test_a_cut_stream_tells_nothing_but_what_was_counted() -> None:
    row = next(row for row in ROWS if row["name"] == "/completion ends itself, plain")
    meter = Meter(b"/completion")
    for event in events(row["stream"].encode())[:10]:
        meter.add(event)
    assert meter.usage() is None
    assert meter.tokens == 10
    assert repr(meter) == "<Meter: 10 tokens>"


CHAT_PROGRESS = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    b'"created":1,"prompt_progress":{"total":11,"cache":10,"processed":10,"time_ms":0}}\n\n'
)
TEXT_PROGRESS = (
    b'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":null}],"created":1,'
    b'"prompt_progress":{"total":6,"cache":5,"processed":5,"time_ms":0}}\n\n'
)
NATIVE_PROGRESS = (
    b'data: {"index":0,"content":"","tokens":[0],"stop":false,"id_slot":-1,"tokens_predicted":0,'
    b'"tokens_evaluated":6,"prompt_progress":{"total":6,"cache":5,"processed":5,"time_ms":0}}\n\n'
)
SIGNATURE = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"signature_delta","signature":""}}\n\n'
)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (b"/v1/chat/completions", b":\n\n"),
        (b"/v1/chat/completions", CHAT_PROGRESS),
        (b"/v1/completions", TEXT_PROGRESS),
        (b"/completion", NATIVE_PROGRESS),
        (b"/v1/messages", SIGNATURE),
    ],
)
def test_pings_progress_and_signatures_are_no_tokens(path: bytes, event: bytes) -> None:
    meter = Meter(path)
    meter.add(chunked(event))
    assert meter.tokens == 0


def test_a_final_event_written_by_a_continuation_is_read() -> None:
    for end in (PLAIN_END, USAGE_END, RESPONSES_END, MESSAGES_END):
        rewritten = b"".join(
            sse.write(read.name, read.data) if read.data is not None else event
            for event in events(end)
            for read in [sse.read(event)]
        )
        told = of_events(rewritten)
        assert told is not None
        assert told == of_events(end)


# ---- nobody is fooled by what is said

TEXT = st.text() | st.lists(
    st.sampled_from(
        [FALSE.decode(), TIMINGS.decode(), '"usage":{', '"', "\\", "\n\n", "\r\n", "}", "},{", "data: ", "x"]
    )
).map("".join)


def said(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")[1:-1]


@given(text=TEXT)
def test_no_text_is_taken_for_figures(text: str) -> None:
    words = said(text)
    for body in (CHAT_BODY, MESSAGES_BODY, RESPONSES_BODY):
        assert of_body(body.replace(b"Later", words)) == TOLD
        assert of_body(body.replace(b"demo", words)) == TOLD
        without = body[: body.index(b',"usage"')].replace(b"Later", words)
        assert of_body(without) is None
    assert of_body(RANKS.replace(b'"index":1', b'"text":"%b"' % words)) == Usage(6, 0)
    native = b'{"index":0,"content":"%b","tokens":[],%b,"completion_probabilities":[{"token":"%b"}]}'
    assert of_body(native % (words, TIMINGS, words * 50)) == TOLD
    assert of_body(b"[%b]" % native % (words, TIMINGS, words * 50)) == TOLD


@given(text=TEXT)
def test_no_text_of_a_stream_is_taken_for_figures_or_tokens(text: str) -> None:
    event = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%b"}}],%b}\n\n' % (
        said(text),
        CHUNK,
    )
    meter = Meter(b"/v1/chat/completions")
    meter.add(event)
    assert meter.tokens == 1
    assert meter.usage() is None
    meter.add(PLAIN_END)
    assert meter.usage() == TOLD


def test_arguments_that_a_model_made_up_do_not_count() -> None:
    """The one place where names are not llama-server's own: a tool call's arguments on /v1/messages."""
    made_up = b'"content":[{"type":"tool_use","id":"1","name":"f","input":{%b,%b}}]' % (FALSE, TIMINGS)
    body = MESSAGES_BODY.replace(b'"content":[{"type":"text","text":"Later, my"}]', made_up)
    assert json.loads(body)
    assert of_body(body) == TOLD


def test_every_cut_of_an_answer_tells_the_truth_or_nothing() -> None:
    for body, start in itertools.product([CHAT_BODY, MESSAGES_BODY, RESPONSES_BODY], range(0, 2000, 7)):
        assert of_body(body[start:]) in (TOLD, None)
