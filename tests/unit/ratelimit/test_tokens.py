"""Tokens guessed before a request is served."""

import pytest

from supervisor.ratelimit.tokens import (
    CLIENTS_MAX,
    FIRST_OUTPUT,
    OutputLength,
    OutputLengths,
    estimate,
    prompt_of,
    worst,
)


@pytest.mark.parametrize(
    ("body_bytes", "max_tokens", "expected"),
    [
        (0, None, FIRST_OUTPUT),
        (401, 10, 101 + 10),
        (400, 10_000, 100 + FIRST_OUTPUT),
        (400, -1, 100 + FIRST_OUTPUT),  # llama-server's "as many as it likes"
        (400, 0, 100),
        (10**9, 10, 4096),
    ],
)
def test_prompt_and_answer_within_the_context(body_bytes, max_tokens, expected):
    assert estimate(prompt_of(body_bytes), max_tokens, OutputLength(), 4096) == expected


def test_the_length_of_answers_is_learned():
    output = OutputLength()
    for _ in range(200):
        output.learn(40)
    assert output.tokens == 40
    assert estimate(10, None, output, 4096) == 50


def test_lengths_are_learned_by_client_and_model():
    outputs = OutputLengths()
    for _ in range(200):
        outputs.of("ann", "demo").learn(1)
    assert outputs.of("ann", "demo").tokens == 1
    assert outputs.of("bob", "demo").tokens == outputs.of("ann", "other").tokens == FIRST_OUTPUT


def test_no_more_clients_are_remembered_than_there_is_room_for():
    outputs = OutputLengths()
    outputs.of("ann", "demo").learn(1)
    kept = outputs.of("ann", "demo")
    for number in range(2 * CLIENTS_MAX):
        outputs.of(f"c{number}", "demo")
        assert outputs.of("ann", "demo") is kept  # who goes on asking is not forgotten
    assert len(outputs) == CLIENTS_MAX


def test_several_answers_are_several_times_as_many():
    assert estimate(10, 40, OutputLength(), 4096, 3) == 130
    assert estimate(10**6, None, OutputLength(), 4096, 3) == 3 * 4096


def test_what_is_not_told_may_have_been_as_long_as_there_was_room():
    assert worst(10, None, 4096) == worst(10, -1, 4096) == worst(10, 10**6, 4096) == 4106
    assert worst(10, 400, 4096, 3) == 1210
