"""Tokens guessed before a request is served."""

import pytest

from supervisor.ratelimit.tokens import FIRST_OUTPUT, OutputLength, estimate, prompt_of


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
