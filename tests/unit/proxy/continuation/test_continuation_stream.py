"""`proxy.continuation`: whole streams, cut everywhere, continued once and twice.

`data/` holds streams of the real llama-server and their requests. The rest of each is said by a simulated
generation, which the first test holds against the recording.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy.continuation import CONTINUABLE, CannotContinue, Continuation
from tests.support import streams
from tests.support.generations import Generation

DATA = Path(__file__).parent / "data"
RECORDINGS = sorted(path.stem for path in DATA.glob("*.json"))


class Recording:
    def __init__(self, name: str) -> None:
        request = json.loads((DATA / f"{name}.json").read_text())
        self.path: str = request["path"]
        self.fields: dict[str, Any] = request["body"]
        self.body = json.dumps(self.fields).encode()
        self.stream = (DATA / f"{name}.sse").read_bytes()
        self.events = streams.events(self.stream)
        self.whole = streams.told(self.path, self.stream)

    def generation(self, name: str) -> Generation:
        """One that says what was recorded."""
        thinking: list[str] = []
        text: list[str] = []
        before = streams.Told()
        for number in range(1, len(self.events) + 1):
            told = streams.told(self.path, b"".join(self.events[:number]))
            if told.reasoning != before.reasoning:
                thinking.append(told.reasoning.removeprefix(before.reasoning))
            if told.text != before.text:
                text.append(told.text.removeprefix(before.text))
            before = told
        ids = re.findall(rb'"content":"[^"]+","tokens":\[(\d+)\]', self.stream)
        return Generation(tuple(text), tuple(thinking), name, "length", tuple(map(int, ids)))


def shape(stream: bytes) -> list[Any]:
    """The events without what differs from run to run."""

    def plain(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            hidden = {
                "timings",
                "generation_settings",
                "prompt_progress",
                "usage",
                "tokens",
                "tokens_evaluated",
            }
            hidden |= {"tokens_cached", "tokens_predicted"}
            return {key: plain(item, key) for key, item in value.items() if key not in hidden}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if name in {"id", "item_id", "created", "created_at"}:
            return name
        return value

    events = []
    for block in streams.events(stream):
        data = re.sub(rb"^(event: .*\n)?data: ", b"", block).strip()
        events.append("[DONE]" if data == b"[DONE]" else plain(json.loads(data)))
    return events


def continued(recording: Recording, sent: bytes, *deaths: int) -> bytes | None:
    """All the client gets: `sent`, and what generations say that die after so many events; the last does not.

    None where it fell between two events that llama-server writes at once, and nobody knows why it ended.
    """
    continuation = Continuation(recording.path.encode(), recording.body, sent)
    got = [sent]
    for number, death in enumerate([*deaths, None]):
        if continuation.finished:
            break
        if b"content_block_stop" in b"".join(got) and b"message_delta" not in b"".join(got):
            with pytest.raises(CannotContinue, match="reason for its end"):
                continuation.resume()
            return None
        resume = continuation.resume()
        assert resume.target == recording.path.encode()
        answer = recording.generation(f"later{number}").answer(recording.path, resume.body)
        passed = b"".join(streams.events(answer)[:death])
        got += [continuation.feed(passed[at : at + 7]) for at in range(0, len(passed), 7)]
        assert continuation.broken is None
    assert continuation.end()
    return b"".join(got)


@pytest.fixture(params=RECORDINGS)
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def test_the_simulated_generation_speaks_as_the_recorded_one(recording: Recording):
    simulated = recording.generation("any").answer(recording.path, recording.body)
    recorded = [event for event in recording.events if b'"prompt_progress"' not in event]
    assert shape(simulated) == shape(b"".join(recorded))


def test_wherever_it_is_cut_the_client_has_the_same_answer(recording: Recording):
    refused = 0
    for cut in range(len(recording.events) + 1):
        sent = b"".join(recording.events[:cut])
        stream = continued(recording, sent)
        if stream is None:
            refused += 1
            continue
        told = streams.told(recording.path, stream)
        assert told.said == recording.whole.said, cut
        assert len(told.ids) == (0 if recording.path == "/completion" else 1), cut
        assert (told.ends, told.marks) == (1, 0 if cut == len(recording.events) else 1), cut
        if cut > 0:
            assert told.ids == recording.whole.ids, cut
            assert told.completion_tokens == recording.whole.completion_tokens, cut
    assert refused <= (2 if recording.path == "/v1/messages" else 0)


def test_two_deaths_in_one_answer_make_no_difference(recording: Recording):
    for cut in range(0, len(recording.events), 3):
        for second in range(9):
            sent = b"".join(recording.events[:cut])
            stream = continued(recording, sent, second)
            if stream is None:
                continue
            told = streams.told(recording.path, stream)
            assert told.said == recording.whole.said, (cut, second)
            assert told.ends == 1
            assert len(told.ids) <= 1, (cut, second)


def test_nothing_sent_means_the_request_as_it_was():
    recording = Recording("chat")
    for cut in (0, 1):  # nothing, the role
        sent = b"".join(recording.events[:cut])
        assert Continuation(b"/v1/chat/completions", recording.body, sent).resume().body == recording.body


def test_the_limit_is_reduced_by_what_was_sent():
    names = {
        "chat": "max_tokens",
        "text": "n_predict",
        "native": "n_predict",
        "messages": "max_tokens",
        "responses": "max_output_tokens",
    }
    for name, limit in names.items():
        recording = Recording(name)
        sent = b""
        for event in recording.events:
            sent += event
            if len(streams.told(recording.path, sent).text.split()) == 3:
                break
        body = json.loads(Continuation(recording.path.encode(), recording.body, sent).resume().body)
        assert body[limit] == recording.whole.completion_tokens - 3, name
        assert [key for key in body if key in {"max_tokens", "n_predict", "max_output_tokens"}] == [limit]


def test_usage_counts_what_was_sent_as_completion_not_as_prompt():
    recording = Recording("chat")
    stream = continued(recording, b"".join(recording.events[:6]))
    assert stream is not None
    told = streams.told(recording.path, stream)
    assert (told.prompt_tokens, told.completion_tokens) == (13, 12)


def test_a_limit_reached_at_the_cut_ends_with_length_and_no_more_text():
    recording = Recording("chat")
    sent = b"".join(event for event in recording.events if b'"finish_reason":null' in event)
    continuation = Continuation(recording.path.encode(), recording.body, sent)
    assert json.loads(continuation.resume().body)["max_tokens"] == 1
    more = Generation((*recording.generation("").text, " surplus", " more"), (), "later")
    rest = more.answer(recording.path, continuation.resume().body)
    assert b"surplus" in rest
    told = streams.told(recording.path, sent + continuation.feed(rest))
    assert told.said == recording.whole.said
    assert told.completion_tokens == 12
    assert continuation.end()


def test_the_mark_comes_once_for_each_generation_and_before_its_events():
    recording = Recording("chat")
    continuation = Continuation(recording.path.encode(), recording.body, b"".join(recording.events[:5]))
    for _ in range(2):
        continuation.resume()
        assert continuation.feed(b"da") == b": llmsup-continued\n\n"
        assert continuation.feed(b"") == b""


def test_half_an_event_of_a_dead_generation_is_forgotten():
    recording = Recording("chat")
    sent = b"".join(recording.events[:5])
    continuation = Continuation(recording.path.encode(), recording.body, sent)
    first = recording.generation("second").answer(recording.path, continuation.resume().body)
    got = continuation.feed(first[:-40])
    assert not continuation.end()
    again = recording.generation("third").answer(recording.path, continuation.resume().body)
    got += continuation.feed(again)
    assert streams.told(recording.path, sent + got).said == recording.whole.said
    assert continuation.end()


def test_pings_go_through_and_change_nothing():
    recording = Recording("messages")
    sent = b":\n\n" + b":\n\n".join(recording.events[:5])
    continuation = Continuation(recording.path.encode(), recording.body, sent)
    rest = recording.generation("later").answer(recording.path, continuation.resume().body)
    got = continuation.feed(b":\n\n" + rest)
    assert got.startswith(b": llmsup-continued\n\n:\n\n")
    assert streams.told(recording.path, sent + got).said == recording.whole.said


@pytest.mark.parametrize("name", RECORDINGS)
def test_an_error_of_the_new_generation_is_passed_on_and_is_no_end(name: str):
    recording = Recording(name)
    continuation = Continuation(recording.path.encode(), recording.body, b"".join(recording.events[:5]))
    continuation.resume()
    named = b"event: error\n" if name.startswith("messages") else b""
    inner = b'{"code":500,"message":"no","type":"server_error"}'
    error = b"%bdata: %b\n\n" % (named, inner if named else b'{"error":%b}' % inner)
    assert continuation.feed(error) == b": llmsup-continued\n\n" + error
    assert not continuation.finished
    assert not continuation.end()
    with pytest.raises(CannotContinue):
        continuation.resume()


def test_a_clean_end_without_the_last_event_is_not_whole():
    recording = Recording("chat")
    continuation = Continuation(recording.path.encode(), recording.body, b"".join(recording.events[:5]))
    rest = recording.generation("later").answer(recording.path, continuation.resume().body)
    continuation.feed(rest.removesuffix(b"data: [DONE]\n\n"))
    assert not continuation.end()
    continuation.feed(b"data: [DONE]\n\n")
    assert continuation.end()
    continuation.feed(b"data: half")
    assert not continuation.end()


@pytest.mark.parametrize(
    "junk", [b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"what\n\n", b'data: {"choices":[{}]}\n\n']
)
def test_events_of_the_new_generation_that_are_none_break_it(junk: bytes):
    recording = Recording("chat")
    continuation = Continuation(recording.path.encode(), recording.body, b"".join(recording.events[:5]))
    continuation.resume()
    assert continuation.feed(junk + b"".join(recording.events)) == b": llmsup-continued\n\n"
    assert continuation.broken
    assert not continuation.end()
    with pytest.raises(CannotContinue):
        continuation.resume()


def test_a_whole_answer_has_nothing_to_resume(recording: Recording):
    continuation = Continuation(recording.path.encode(), recording.body, recording.stream)
    assert continuation.finished
    assert continuation.end()
    with pytest.raises(CannotContinue):
        continuation.resume()


def test_an_answer_that_had_failed_is_not_continued():
    with pytest.raises(CannotContinue, match="failed"):
        Continuation(b"/completion", b'{"prompt":"x","stream":true}', b'data: {"error":{"code":500}}\n\n')


def test_a_stream_cut_within_an_event_is_not_continued():
    with pytest.raises(CannotContinue, match="within"):
        Continuation(b"/completion", b'{"prompt":"x","stream":true}', b'data: {"index"')


def test_other_paths_are_not_continued():
    assert b"/infill" not in CONTINUABLE
    with pytest.raises(CannotContinue):
        Continuation(b"/infill", b'{"stream":true}', b"")


PATHS = st.sampled_from(sorted(CONTINUABLE))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "index", "delta", "content", "text", "finish_reason", "type", "item", "id", "timings", "stop", "tokens",
         "tokens_predicted", "tokens_evaluated", "predicted_n", "response", "usage", "messages", "prompt", "input", "n",
         "max_tokens", "n_predict", "role", "reasoning_content", "tool_calls", "prompt_progress"]
    ), inner, max_size=6),
    max_leaves=12,
)  # fmt: skip


def survives(path: bytes, body: bytes, sent: bytes, more: bytes) -> None:
    """Whatever comes, CannotContinue is the only exception."""
    try:
        continuation = Continuation(path, body, sent)
        continuation.resume()
        continuation.feed(more)
        continuation.end()
        continuation.resume()
    except CannotContinue:
        pass


@settings(deadline=None, database=None)
@given(PATHS, st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_survived(path: bytes, body: bytes, sent: bytes, more: bytes):
    survives(path, body, sent, more)
    survives(path, b'{"stream":true}', sent, more)
    survives(path, b'{"stream":true}', b"data: " + sent + b"\n\n", more + b"\n\n")


@settings(deadline=None, database=None)
@given(PATHS, VALUES, VALUES, VALUES)
def test_any_json_is_survived(path: bytes, body: Any, sent: Any, more: Any):
    fields = (
        {**body, "stream": True}
        if isinstance(body, dict)
        else {"stream": True, "messages": body, "prompt": body}
    )
    text = json.dumps(fields).encode()
    survives(
        path, text, b"data: %b\n\n" % json.dumps(sent).encode(), b"data: %b\n\n" % json.dumps(more).encode()
    )
    survives(path, text, b"", b"data: %b\n\n" % json.dumps(more).encode())


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=50, deadline=None, database=None)
@given(damage=st.data())
def test_damaged_recordings_are_survived(name: str, damage: st.DataObject):
    recording = Recording(name)
    at = damage.draw(st.integers(0, len(recording.stream) - 1))
    drop = damage.draw(st.integers(0, 40))
    sent = recording.stream[:at] + damage.draw(st.binary(max_size=4)) + recording.stream[at + drop :]
    survives(recording.path.encode(), recording.body, sent, recording.stream)


def test_deep_nesting_is_survived():
    deep = b"[" * 100_000
    survives(b"/completion", b'{"stream":true,"a":' + deep, b"", b"")
    survives(b"/completion", b'{"stream":true}', b"data: " + deep + b"\n\n", b"")
    survives(b"/completion", b'{"stream":true,"prompt":"x"}', b"", b"data: " + deep + b"\n\n")
