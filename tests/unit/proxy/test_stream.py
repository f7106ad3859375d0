"""`proxy.stream`: whole events only, all of them kept, and an end that is one."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import UpstreamCrashed
from supervisor.proxy import stream as stream_module
from supervisor.proxy.continuation import CannotContinue
from supervisor.proxy.stream import EVENT_END, LAST_CHUNK, ClientStream, Kept, dechunked, says_end

CHAT = b"/v1/chat/completions"
BODY = b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":9}'
DONE = b"data: [DONE]\n\n"


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def delta(**fields: Any) -> bytes:
    import json

    choice = {"finish_reason": None, "index": 0, "delta": fields}
    return (
        b"data: %b\n\n"
        % json.dumps(
            {
                "choices": [choice],
                "created": 1,
                "id": "chatcmpl-1",
                "model": "m",
                "object": "chat.completion.chunk",
            },
            separators=(",", ":"),
        ).encode()
    )


ROLE = chunk(delta(role="assistant", content=None))


class Client:
    """What a connection and a row are to a stream."""

    def __init__(self, path: bytes = CHAT, *, asked_progress: bool = False) -> None:
        self.out: list[bytes] = []
        self.finished = self.truncated = False
        connection = SimpleNamespace(
            write=self.out.append, finish=self._finish, truncate=lambda _, framed: self._truncate(framed)
        )
        self.exchange: Any = SimpleNamespace(
            connection=connection,
            path=path,
            body=BODY,
            outgoing=BODY if asked_progress else None,
            outgoing_target=b"",
            id=b"id",
            attempts=1,
            continued=0,
            gate=SimpleNamespace(progressed=lambda: None),
            count=lambda _: None,
        )
        self.stream = ClientStream(self.exchange)

    def _finish(self, _: object) -> None:
        self.finished = True

    def _truncate(self, framed: bool) -> None:
        assert framed
        self.truncated = True

    @property
    def got(self) -> bytes:
        return b"".join(self.out)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=12), st.lists(st.integers(0, 3000), max_size=12))
def test_however_the_bytes_come_only_whole_events_go_out(texts: list[str], places: list[int]) -> None:
    whole = b"".join(chunk(delta(content=text)) for text in texts)
    cuts = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    client = Client()
    for start, end in itertools.pairwise(cuts):
        if end > start:
            client.stream.pass_on(whole[start:end])
            assert client.got.endswith(EVENT_END) or not client.got
            assert whole.startswith(client.got)
    assert client.got == whole


@pytest.mark.parametrize(
    "event",
    [
        DONE,
        b"event: message_stop\ndata: {}\n\n",
        b"event: response.completed\ndata: {}\n\n",
        b'data: {"error":{"code":500}}\n\n',
        b'data: {"index":0,"content":"","stop":true,"x":1}\n\n',
    ],
)
@pytest.mark.parametrize("together", [True, False, "one chunk"])
def test_a_stream_with_its_last_event_ends(event: bytes, together: bool) -> None:
    client = Client()
    client.stream.pass_on(ROLE)
    if together == "one chunk":
        chunks = chunk(delta(content="last") + event)
        assert client.stream.ends(chunks + LAST_CHUNK)
        assert client.got == ROLE + chunks + LAST_CHUNK
        return
    if together:
        assert client.stream.ends(chunk(event) + LAST_CHUNK)
    else:
        client.stream.pass_on(chunk(event))
        assert client.stream.ends(LAST_CHUNK)
    assert client.got == ROLE + chunk(event) + LAST_CHUNK


@pytest.mark.parametrize(
    "event",
    [delta(content="not the end"), delta(content='"stop":true'), delta(content="data: [DONE]")],
    ids=["text", "text like the native end", "text like the end"],
)
def test_a_stream_without_its_last_event_does_not_end_whatever_its_text_says(event: bytes) -> None:
    client = Client()
    client.stream.pass_on(ROLE)
    assert not client.stream.ends(chunk(event) + LAST_CHUNK)
    assert client.got == ROLE + chunk(event), "what is whole of it goes out, the end does not"


PROGRESS = b',"prompt_progress":{"total":9,"cache":0,"processed":4,"time_ms":1}'


def with_progress(event: bytes) -> bytes:
    """As llama-server writes it: at the end of the event."""
    return event.removesuffix(b"}\n\n") + PROGRESS + b"}\n\n"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_progress_we_asked_for_is_kept_from_the_client(step: int) -> None:
    client = Client(asked_progress=True)
    plain = ROLE + chunk(delta(content="one")) + chunk(delta(content=" two"))
    ping = chunk(b":\n\n")
    told = chunk(with_progress(delta(role="assistant", content=None)))
    whole = told + ping + told + plain
    for start in range(0, len(whole), step):
        client.stream.pass_on(whole[start : start + step])
    assert client.got == ping + plain
    assert client.stream.ends(chunk(DONE) + LAST_CHUNK)
    assert client.got == ping + plain + chunk(DONE) + LAST_CHUNK


def test_an_answer_that_comes_whole_is_rid_of_progress_too() -> None:
    client = Client(asked_progress=True)
    told = chunk(with_progress(delta(role="assistant", content=None)))
    assert client.stream.ends(told + ROLE + chunk(DONE) + LAST_CHUNK)
    assert client.got == ROLE + chunk(DONE) + LAST_CHUNK


def test_text_that_comes_with_progress_is_not_lost() -> None:
    client = Client(asked_progress=True)
    client.stream.pass_on(
        chunk(delta(role="assistant", content=None) + with_progress(delta(content="<think>")))
    )
    assert client.got == chunk(delta(role="assistant", content=None) + delta(content="<think>"))


def test_progress_the_client_asked_for_is_its_own() -> None:
    client = Client()
    told = chunk(with_progress(delta(role="assistant", content=None)))
    client.stream.pass_on(told)
    assert client.got == told


def test_half_an_event_is_dropped_when_the_rest_comes_from_another() -> None:
    client = Client()
    client.stream.pass_on(ROLE + chunk(delta(content="one")))
    client.stream.pass_on(chunk(delta(content=" two"))[:20])
    assert client.stream.resume()
    assert b"one" in client.exchange.outgoing
    assert b" two" not in client.exchange.outgoing
    client.stream.splice(delta(role="assistant", content=None) + delta(content=" two") + DONE)
    assert client.stream.spliced()
    content = dechunked(client.got)
    assert content.count(b'"one"') == 1
    assert content.count(b" two") == 1
    assert content.count(b": llmsup-continued\n\n") == 1
    assert content.endswith(DONE)
    assert client.got.endswith(LAST_CHUNK)
    assert client.exchange.continued == 1


def test_a_stream_that_lacks_only_its_clean_end_gets_it() -> None:
    client = Client()
    client.stream.pass_on(ROLE + chunk(DONE))
    assert not client.stream.resume()
    client.stream.close()
    assert client.got.endswith(chunk(DONE) + LAST_CHUNK)
    assert client.finished


def test_progress_makes_the_next_death_another_one() -> None:
    client = Client()
    client.stream.pass_on(ROLE + chunk(delta(content="one")))
    client.exchange.attempts = 4
    assert client.stream.resume()
    client.stream.splice(delta(content=" two"))
    assert client.exchange.attempts == 1


def test_what_was_too_long_to_keep_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "KEPT_BYTES", 1000)
    monkeypatch.setattr(stream_module, "PACK_BYTES", 100)
    client = Client()
    for _ in range(30):
        client.stream.pass_on(chunk(delta(content="x")))
    with pytest.raises(CannotContinue, match="too much"):
        client.stream.resume()
    client.stream.cut(UpstreamCrashed("gone"))
    assert client.truncated
    assert b"upstream_crashed" in client.got
    assert not client.got.endswith(LAST_CHUNK)


def test_an_event_of_any_size_goes_through_and_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "HELD_BYTES", 1000)
    client = Client()
    event = chunk(b"data: " + b"x" * 5000 + b"\n\n")
    for start in range(0, len(event), 500):
        client.stream.pass_on(event[start : start + 500])
    assert client.got == event


@given(st.lists(st.binary(max_size=300), max_size=50))
def test_kept_is_what_was_added(blocks: list[bytes]) -> None:
    kept = Kept()
    for block in blocks:
        kept.add(block)
    assert kept.bytes() == b"".join(blocks)


def test_long_answers_are_kept_small() -> None:
    kept = Kept()
    block = chunk(delta(content="word"))
    for _ in range(10_000):
        kept.add(block)
    held = sum(map(len, kept._packed)) + sum(map(len, kept._blocks))
    assert held < 0.1 * 10_000 * len(block)
    assert kept.bytes() == block * 10_000


@given(st.binary())
def test_whatever_the_bytes_are_the_question_has_an_answer(data: bytes) -> None:
    assert says_end(data) in {True, False}
