"""`proxy.pace`: each span of time must bring its part."""

from supervisor.proxy.pace import (
    BYTES_PER_S,
    CROWDED_BYTES_PER_S,
    CROWDED_SPAN_S,
    MOST_S,
    SPAN_S,
    Pace,
)
from supervisor.types import MIB


def first_refusal(
    bytes_per_s: float, *, crowded: bool = False, head_start: int = 0
) -> tuple[int, str] | None:
    """After how many seconds of such a sender, and why."""
    pace = Pace(0.0, head_start)
    for second in range(1, 700):
        why = pace.too_slow(float(second), head_start + int(second * bytes_per_s), crowded=crowded)
        if why is not None:
            return second, why
    return None


def test_a_byte_now_and_then_is_not_waited_for():
    assert first_refusal(0.05) == (SPAN_S, f"the body came at less than {BYTES_PER_S} bytes a second")


def test_megabytes_at_first_are_no_credit():
    refusal = first_refusal(1, head_start=31 * MIB)
    assert refusal is not None
    assert refusal[0] == SPAN_S


def test_a_modem_is_waited_for_but_not_for_ever():
    refusal = first_refusal(7000)
    assert refusal is not None
    assert refusal == (MOST_S + 1, f"the body took longer than {MOST_S:g} s")


def test_while_others_wait_it_has_to_move():
    refusal = first_refusal(7000, crowded=True)
    assert refusal is not None
    assert refusal[0] == CROWDED_SPAN_S
    refusal = first_refusal(CROWDED_BYTES_PER_S, crowded=True)
    assert refusal is not None
    assert refusal[0] > MOST_S
