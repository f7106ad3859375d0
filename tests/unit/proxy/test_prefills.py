"""`proxy.prefills`: what is long and new is large; what goes on from something served is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.prefills import (
    BLOCK_BYTES,
    HASHED_BYTES,
    KNOWN_BLOCKS,
    LARGE_BYTES,
    Prefills,
)
from supervisor.types import KIB

CHAT = b"/v1/chat/completions"


def words(length: int, word: str = "word") -> str:
    """Text of which no two blocks are equal."""
    text = "".join(f"{word}{number} " for number in range(length // 5))
    return text[:length]


def talk(*said: str) -> bytes:
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": content} for turn, content in enumerate(said)
    ]
    return json.dumps({"model": "demo", "temperature": 0, "messages": messages, "stream": True}).encode()


def body(length: int, word: str = "word") -> bytes:
    return words(length, word).encode()


def test_a_long_new_prompt_is_large() -> None:
    assert Prefills().large(CHAT, body(LARGE_BYTES))


def test_a_short_one_is_not() -> None:
    assert not Prefills().large(CHAT, body(LARGE_BYTES - 1))


def test_a_short_one_is_not_even_looked_at() -> None:
    class Unread(bytes):
        def __getitem__(self, _: object) -> bytes:  # type: ignore[override]  # it must not come to this
            raise AssertionError("it was read")

    prefills = Prefills()
    short = Unread(LARGE_BYTES - 1)
    assert not prefills.large(CHAT, short)
    prefills.served(CHAT, short)
    with pytest.raises(AssertionError):
        prefills.large(CHAT, Unread(LARGE_BYTES))


def test_the_same_again_is_cached() -> None:
    prefills = Prefills()
    prefills.served(CHAT, body(100 * KIB))
    assert not prefills.large(CHAT, body(100 * KIB))
    assert prefills.large(CHAT, body(100 * KIB, "else"))


def test_a_conversation_that_goes_on_is_cached() -> None:
    prefills = Prefills()
    first = words(60_000)
    assert prefills.large(CHAT, talk(first))
    prefills.served(CHAT, talk(first))
    assert not prefills.large(CHAT, talk(first, "an answer", words(2_000, "more")))


def test_what_is_new_in_it_may_be_large_itself() -> None:
    prefills = Prefills()
    first = words(60_000)
    prefills.served(CHAT, talk(first))
    assert prefills.large(CHAT, talk(first, "an answer", words(LARGE_BYTES, "more")))


def test_only_a_common_beginning_counts() -> None:
    prefills = Prefills()
    known = body(60 * KIB)
    prefills.served(CHAT, known)
    assert prefills.large(CHAT, b"x" + known[1:])
    assert prefills.large(CHAT, body(BLOCK_BYTES, "else") + known[BLOCK_BYTES:])
    assert prefills.large(CHAT, known[BLOCK_BYTES:])


def test_another_generation_has_cached_nothing() -> None:
    prefills = Prefills()
    prefills.served(CHAT, body(60 * KIB))
    prefills.forget()
    assert prefills.large(CHAT, body(60 * KIB))
    assert repr(prefills) == "<Prefills: 0 beginnings>"


def test_endpoints_make_different_prompts_of_the_same_body() -> None:
    prefills = Prefills()
    prefills.served(CHAT, body(60 * KIB))
    assert not prefills.large(b"/chat/completions", body(60 * KIB))
    assert prefills.large(b"/v1/responses", body(60 * KIB))


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/embedding", b"/rerank"])
def test_what_is_never_cached_stays_large(path: bytes) -> None:
    prefills = Prefills()
    prefills.served(path, body(60 * KIB))
    assert prefills.large(path, body(60 * KIB))
    assert not prefills.large(path, b"short")


def test_what_is_longer_than_any_context_is_large_and_not_remembered() -> None:
    prefills = Prefills()
    huge = bytes(HASHED_BYTES + 1)
    prefills.served(CHAT, huge)
    assert prefills.large(CHAT, huge)
    assert repr(prefills) == "<Prefills: 0 beginnings>"
    prefills.served(CHAT, huge[1:])
    assert not prefills.large(CHAT, huge[1:])


def test_no_more_is_remembered_than_its_bound() -> None:
    prefills = Prefills()
    long = [body(2 * 1024 * KIB, f"w{number}x") for number in range(9)]
    for one in long:
        prefills.served(CHAT, one)
    assert repr(prefills) == f"<Prefills: {KNOWN_BLOCKS} beginnings>"
    assert prefills.large(CHAT, long[0])
    assert not prefills.large(CHAT, long[-1])


def test_what_is_used_is_not_forgotten() -> None:
    prefills = Prefills()
    used = body(100 * KIB, "used")
    for number in range(9):  # together more than is remembered
        if number in (0, 5):
            prefills.served(CHAT, used)
        prefills.served(CHAT, body(2 * 1024 * KIB, f"w{number}x"))
    assert not prefills.large(CHAT, used)
    assert prefills.large(CHAT, body(100 * KIB, "w0x"))


def test_of_what_is_half_forgotten_the_beginning_is_left() -> None:
    """Chains without their beginnings would fill the table and help nobody."""
    prefills = Prefills()
    old = body(4 * 1024 * KIB, "old")
    prefills.served(CHAT, old)
    for number in range(7):
        prefills.served(CHAT, body(2 * 1024 * KIB, f"w{number}x"))
    assert prefills.large(CHAT, old)
    assert not prefills.large(CHAT, old[: 1024 * KIB])


@given(
    common=st.integers(0, 20_000),
    served=st.binary(max_size=300),
    asked=st.integers(0, 3 * LARGE_BYTES),
)
def test_what_is_left_decides_to_a_block(common: int, served: bytes, asked: int) -> None:
    prefills = Prefills()
    beginning = body(common)
    prefills.served(CHAT, beginning + b"\x00" + served)
    again = beginning + b"\x01" * asked
    left = len(again) - common
    if left >= LARGE_BYTES:
        assert prefills.large(CHAT, again)
    elif left < LARGE_BYTES - BLOCK_BYTES and common >= LARGE_BYTES:
        assert not prefills.large(CHAT, again)
