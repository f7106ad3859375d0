"""`proxy.asked`: a body is read once, refused when it is no JSON, and decides how its answer is had."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import BadRequest
from supervisor.proxy import asked
from supervisor.proxy.upload import COUNTED_FROM_BYTES

CHAT = b"/v1/chat/completions"


def read(body: object, *, path: bytes = CHAT, continuing: bool = True, **fields: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    exchange: Any = SimpleNamespace(
        method=b"POST",
        path=path,
        body=raw,
        asked=None,
        outgoing=None,
        assembled=False,
        continuable=False,
        http10=False,
    )
    vars(exchange).update(fields)
    asked.read(exchange, continuing=continuing)
    return exchange


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


def test_of_a_large_body_only_the_options_are_remembered() -> None:
    prompt = list(range(COUNTED_FROM_BYTES))
    exchange = read({"prompt": prompt, "n_predict": 4, "model": "demo"}, path=b"/completion")
    assert exchange.asked == {"n_predict": 4, "model": "demo"}
    assert json.loads(exchange.outgoing)["prompt"] == prompt
