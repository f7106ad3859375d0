"""`proxy.continuation.sse`: blocks, events and comments."""

import pytest

from supervisor.proxy.continuation import sse
from supervisor.proxy.continuation.asked import MALFORMED


def test_blocks_keep_their_empty_line_and_the_rest_is_given_back():
    assert sse.split(b"data: 1\n\n:\n\ndata") == ([b"data: 1\n\n", b":\n\n"], b"data")
    assert sse.split(b"") == ([], b"")


def test_an_event_has_a_name_and_an_object():
    event = sse.read(b'event: x\ndata: {"a":1}\n\n')
    assert (event.name, event.data, event.done) == ("x", {"a": 1}, False)


def test_comments_and_the_end_have_no_data():
    assert sse.read(b":\n\n").data is None
    assert not sse.read(b": llmsup-continued\n\n").done
    assert sse.read(b"data: [DONE]\n\n").done


@pytest.mark.parametrize(
    "block",
    [
        b"data: 1\n\n",
        b"data: [1]\n\n",
        b"data: {\n\n",
        b"event: x\n\n",
        b"id: 1\n\n",
        b"data: {}\ndata: {}\n\n",
        b"x\n\n",
    ],
)
def test_anything_else_is_not_understood(block: bytes):
    with pytest.raises(MALFORMED):
        sse.read(block)


def test_what_is_written_is_read_again():
    for name in ("", "x"):
        event = sse.read(sse.write(name, {"text": 'ä\n"日本"', "n": 1.5, "none": None}))
        assert (event.name, event.data) == (name, {"text": 'ä\n"日本"', "n": 1.5, "none": None})


def test_half_a_character_is_written_as_a_question_mark():
    assert sse.write("", {"a": "\ud800"}) == b'data: {"a":"?"}\n\n'
