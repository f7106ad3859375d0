"""`proxy.asked`: a body is read once, refused when it is no JSON, and decides how its answer is had."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import BadRequest, BodyTooLarge, Forbidden
from supervisor.proxy import asked
from supervisor.proxy.outline import Outline
from supervisor.proxy.upload import COUNTED_FROM_BYTES

CHAT = b"/v1/chat/completions"


def read(body: object, *, path: bytes = CHAT, continuing: bool = True, **fields: Any) -> Any:
    exchange = _exchange(body if isinstance(body, bytes) else json.dumps(body).encode(), path)
    vars(exchange).update(fields)
    asked.read(exchange)
    if exchange.asked is not None:
        asked.arrange(exchange, exchange.asked, continuing=continuing)
    return exchange


def _exchange(body: bytes, path: bytes = CHAT) -> Any:
    return SimpleNamespace(
        method=b"POST",
        path=path,
        body=body,
        asked=None,
        outline=None,
        outgoing=None,
        assembled=False,
        continuable=False,
        http10=False,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[1]",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1} x',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_is_the_callers_mistake(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body)


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"a": 1}', b' \r\n{"a": 1}\n', b'{"a": 2, "a": 1}'])
def test_what_llama_server_reads_is_read(body: bytes) -> None:
    assert read(body).asked == {"a": 1}


def test_other_paths_and_methods_may_bring_anything() -> None:
    assert read(b"nonsense", path=b"/v1/audio/transcriptions").asked is None
    assert read(b"", method=b"GET").asked is None


def test_an_answer_in_one_piece_is_asked_for_as_a_stream() -> None:
    exchange = read({"messages": [{"role": "user", "content": "x"}]})
    assert exchange.assembled
    assert json.loads(exchange.outgoing)["stream"] is True


@pytest.mark.parametrize(
    ("body", "fields", "kept"),
    [
        ({"stream": True}, {}, True),
        ({"stream": True, "response_fields": ["content"]}, {}, False),
        ({"stream": True}, {"http10": True}, False),
        ({"stream": True}, {"continuing": False}, False),
        ({"stream": True}, {"path": b"/infill"}, False),
    ],
)
def test_which_streams_are_kept(body: dict[str, Any], fields: dict[str, Any], kept: bool) -> None:
    exchange = read(body, **fields)
    assert exchange.continuable is kept
    assert not exchange.assembled
    assert (exchange.outgoing is not None) is kept, "who asks for progress must keep it from its client"


def test_what_is_not_generated_is_asked_as_it_is() -> None:
    exchange = read({"content": "x"}, path=b"/tokenize")
    assert (exchange.outgoing, exchange.assembled, exchange.continuable) == (None, False, False)


def large(body: dict[str, Any], **fields: Any) -> Any:
    raw = json.dumps(body).encode()
    outline = Outline()
    outline.feed(raw)
    return read(raw, outline=outline, **fields)


def test_of_a_large_body_only_the_options_are_remembered() -> None:
    prompt = list(range(COUNTED_FROM_BYTES))
    exchange = large({"prompt": prompt, "n_predict": 4, "model": "demo"}, path=b"/completion")
    assert exchange.asked == {"n_predict": 4, "model": "demo"}
    assert json.loads(exchange.outgoing)["prompt"] == prompt
    assert exchange.outline is None


def test_no_tree_is_kept_of_members_that_nobody_asks_for_nor_of_those_in_the_place_of_options() -> None:
    empty: list[object] = [{}, []] * 1000
    asked = read(
        {"x": empty, "stop": empty[:200], "stream_options": {"include_usage": True, "x": empty}}
    ).asked
    assert asked == {"stop": [True] * 16, "stream_options": {"include_usage": True, "x": True}}


def test_an_option_of_a_large_body_is_whole_however_long_it_is() -> None:
    name = "m" * 1000
    assert large({"model": name, "prompt": "x" * 100_000}, path=b"/completion").asked == {"model": name}


def test_a_forged_mark_is_a_text() -> None:
    forged = "\0" + "7:99"
    assert large({"model": forged, "prompt": "x" * 100_000}, path=b"/completion").asked == {"model": forged}


@pytest.mark.parametrize("body", [{"prompt": "a"}, {"prompt": "x" * 100_000}], ids=["small", "large"])
def test_a_name_made_long_by_escapes_is_as_good_as_any(body: dict[str, Any]) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in "repeat_last_n")
    raw = json.dumps(body)[:-1].encode() + b',"%b":2147483647}' % escaped.encode()
    made = Outline()
    made.feed(raw)
    exchange = read(raw, path=b"/completion", outline=made if len(raw) > COUNTED_FROM_BYTES else None)
    with pytest.raises(BadRequest, match="repeat_last_n"):
        exchange.demand.check(context_size=4096, slots=4)


def test_no_name_is_there_twice_by_way_of_escapes() -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in "repeat_last_n").encode()
    raw = b'{"prompt":"%b","repeat_last_n":1,"%b":2}' % (b"x" * 100_000, escaped)
    made = Outline()
    made.feed(raw)
    with pytest.raises(BadRequest, match="twice"):
        read(raw, path=b"/completion", outline=made)


def test_an_option_of_megabytes_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="'grammar'"):
        large({"grammar": "x" * (asked.MAX_TEXT_BYTES + 1)})


def test_a_stream_of_a_very_large_request_is_not_kept_for_another_try() -> None:
    body = {"stream": True, "prompt": "x" * asked.MAX_CONTINUED_BYTES}
    assert not large(body, path=b"/completion").continuable


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400 + ".0"])
def test_a_number_beyond_a_double_is_the_callers_mistake(number: str) -> None:
    with pytest.raises(BadRequest, match="'temperature'"):
        read(b'{"temperature": %b}' % number.encode())


def test_only_small_bodies_are_read_for_those_who_may_ask_nothing_now() -> None:
    def refuse(_: object) -> None:
        raise Forbidden("not now")

    stage = asked.before(lambda _: None, look=refuse, continuing=True)
    assert stage(_exchange(b'{"a": 1}')) is None
    with pytest.raises(Forbidden):
        stage(_exchange(b"[" * (asked.SMALL_BYTES + 1)))
