"""`proxy.outline`: what a large body asks can be read without its texts, and nothing else of it is changed."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from supervisor.errors import BadRequest, BodyTooLarge, CallerError
from supervisor.proxy import outline
from supervisor.proxy.outline import LONG_BYTES, MAX_OUTLINE_BYTES, MAX_WEIGHT, Outline, place
from supervisor.types import KIB, MIB

TEXT = st.text(st.sampled_from('ab"\\\né€😀\x01{[,:'), max_size=2 * LONG_BYTES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def fed(body: bytes, sizes: int | None = None, seed: int = 0) -> Outline:
    """In pieces of up to so many bytes."""
    chance, made, at = random.Random(seed), Outline(), 0
    while at < len(body):
        size = len(body) if sizes is None else chance.randint(1, sizes)
        made.feed(body[at : at + size])
        at += size
    return made


def whole(value: Any, body: bytes) -> Any:
    """With the texts in the places of their marks."""
    if isinstance(value, str):
        where = place(value)
        if where is None:
            return value
        assert where.stop - where.start - 2 > LONG_BYTES, "short ones stay"
        return from_json(body[where])
    if isinstance(value, list):
        return [whole(one, body) for one in value]
    if isinstance(value, dict):
        return {whole(name, body): whole(one, body) for name, one in value.items()}
    return value


@given(JSON, st.booleans(), st.sampled_from([1, 7, 100, None]), st.integers())
def test_the_outline_with_its_texts_is_the_body(value, ascii_only, sizes, seed):
    body = json.dumps({"value": value}, ensure_ascii=ascii_only).encode()
    assert whole(from_json(fed(body, sizes, seed).text()), body) == from_json(body)


@given(JSON, st.data(), st.sampled_from([1, 7, 100, None]), st.integers())
def test_what_no_reader_takes_is_refused_wherever_it_is_cut(value, data, sizes, seed):
    broken = bytearray(json.dumps({"value": value}, ensure_ascii=data.draw(st.booleans())).encode())
    broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(
        st.sampled_from(b'\\"u{[,\x00\x1f\x80\xc3\xffa')
    )
    body = bytes(broken)

    def taken(read: Any) -> bool:
        try:
            from_json(read(), allow_inf_nan=False)
        except (ValueError, CallerError):
            return False
        return True

    assert taken(lambda: fed(body, sizes, seed).text()) == taken(lambda: body)


@pytest.mark.parametrize(
    "inside",
    [
        b"\x00",
        b"\n",
        b"\\x",
        b"\\u12g4",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\xff",
        b"\xed\xa0\x80",
        b"\\ud83d\\u0041",
    ],
)
@pytest.mark.parametrize("sizes", [1, None])
def test_a_long_text_is_checked_though_it_is_left_out(inside, sizes):
    with pytest.raises(BadRequest):
        fed(b'{"content":"' + b"x" * 200 + inside + b"x" * 200 + b'"}', sizes).text()


def test_a_text_without_an_end_is_refused():
    with pytest.raises(BadRequest, match="no end"):
        fed(b'{"content":"' + b"x" * 200).text()


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"a",', b"1,", b'{"a":1},'])
def test_a_body_of_elements_is_refused_long_before_its_end(unit):
    body = b'{"x":[' + unit * (31 * MIB // len(unit))
    made, at = Outline(), 0
    while made.trouble is None:
        made.feed(body[at : at + 64 * KIB])
        at += 64 * KIB
        assert made.weight <= MAX_WEIGHT + 64 * KIB * outline.CONTAINER_WEIGHT
    assert at < 2 * MIB
    with pytest.raises(BodyTooLarge, match="elements"):
        made.text()


def test_an_image_and_a_long_text_are_not_what_is_meant():
    image = b"iVBORw0KGgo" * (MIB // 11)
    text = b'one, two: [three] {four} and \\"five\\". ' * (MIB // 40)
    made = fed(b'{"a":"%b","b":"%b"}' % (image, text), 64 * KIB)
    assert made.weight < 100
    assert len(made.text()) < 100


def test_white_space_and_short_texts_are_bounded_too():
    for filling in (b" ", b'"' + b"x" * 60 + b'",', b"1" * 100 + b","):
        with pytest.raises(BodyTooLarge, match="short texts and white space"):
            fed(b'{"x":[' + filling * (MAX_OUTLINE_BYTES // len(filling) + 1), 64 * KIB).text()


@pytest.mark.parametrize("text", ["", "x", "\0", "\x001", "\x00a:b", "\x001:", "\x00" + "1" * 100 + ":2"])
def test_other_texts_are_no_marks(text):
    assert place(text) is None
