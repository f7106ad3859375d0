"""The exact algorithm against a bucket that is kept as a fraction, without any trick."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.ratelimit.gcra import FULL, SECOND_NS, Rate, after, charged

MINUTE = 60 * SECOND_NS
NOW = 123_456_789_000_000_001

rates = st.builds(Rate, st.integers(1, 5000), st.integers(1, 10**14))


class Bucket:
    """Units in use, leaking at quota per window."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.used, self.at = rate, Fraction(0), 0

    def at_time(self, now_ns: int) -> None:
        leaked = Fraction((now_ns - self.at) * self.rate.quota, self.rate.window_ns)
        self.used, self.at = max(Fraction(0), self.used - leaked), now_ns

    def fits(self, quantity: int) -> bool:
        return self.used + quantity <= self.rate.quota


def fits(rate: Rate, tat: int, quantity: int, now_ns: int) -> bool:
    return rate.excess_ns(rate.take(tat, quantity, now_ns), now_ns) == 0


@pytest.mark.parametrize("quota", [60, 7, 1000, 1])
def test_a_burst_of_the_quota_then_one_each_share_of_the_window_to_the_nanosecond(quota):
    rate, tat = Rate(quota, MINUTE), FULL
    for left in range(quota, 0, -1):
        assert rate.remaining(tat, NOW) == left
        assert fits(rate, tat, 1, NOW)
        tat = rate.take(tat, 1, NOW)
    assert rate.remaining(tat, NOW) == 0
    wait = rate.wait_ns(tat, 1, NOW)
    assert wait == -(-MINUTE // quota)  # 8,571,428,572 for seven
    assert not fits(rate, tat, 1, NOW + wait - 1)
    assert fits(rate, tat, 1, NOW + wait)
    assert rate.full_in_ns(tat, NOW) == MINUTE
    assert rate.remaining(tat, NOW + MINUTE) == quota
    assert quota == 1 or rate.remaining(tat, NOW + MINUTE - 1) == quota - 1


def test_a_day_of_thirds_is_not_rounded():
    rate, tat, admitted = Rate(7, MINUTE), FULL, 0
    now = NOW
    for _ in range(7 * 1440):  # each at the first nanosecond at which it is admitted
        now += rate.wait_ns(tat, 1, now)
        tat = rate.take(tat, 1, now)
        admitted += 1
    assert now - NOW == -(-(admitted - 7) * MINUTE // 7)


def test_a_quantity_beyond_the_quota_waits_for_a_full_bucket():
    rate = Rate(10, MINUTE)
    tat = rate.take(FULL, 4, NOW)
    assert rate.wait_ns(tat, 10, NOW) == rate.wait_ns(tat, 1_000_000, NOW) == 4 * MINUTE // 10


def test_a_debt_shows_as_nothing_remaining_and_is_waited_for():
    rate = Rate(10, MINUTE)
    tat = rate.take(FULL, 25, NOW)
    assert rate.remaining(tat, NOW) == 0
    assert rate.wait_ns(tat, 1, NOW) == 16 * MINUTE // 10


steps = st.lists(
    st.tuples(st.sampled_from(["ask", "refund", "force"]), st.integers(0, 60), st.integers(0, 10**13)),
    max_size=60,
)


@given(rate=rates, steps=steps)
def test_it_is_the_leaky_bucket_of_fractions(rate, steps):
    tat, now, model = FULL, 0, Bucket(rate)
    for what, quantity, later in steps:
        now += later
        model.at_time(now)
        if what == "refund":
            tat = rate.give(tat, quantity)
            model.used = max(Fraction(0), model.used - quantity)
        elif what == "force" or model.fits(quantity):
            if what == "ask":
                assert fits(rate, tat, quantity, now)
            tat = rate.take(tat, quantity, now)
            model.used += quantity
        else:
            assert not fits(rate, tat, quantity, now)
            if quantity <= rate.quota:
                wait = rate.wait_ns(tat, quantity, now)
                assert not fits(rate, tat, quantity, now + wait - 1)
                assert fits(rate, tat, quantity, now + wait)
        assert rate.remaining(tat, now) == max(
            0, int(rate.quota - model.used) if model.used <= rate.quota else 0
        )
        leaks = model.used * rate.window_ns / rate.quota
        assert rate.full_in_ns(tat, now) == -(-leaks.numerator // leaks.denominator)


@given(
    st.lists(st.tuples(rates, st.booleans(), st.integers(0, 10**17)), max_size=4),
    st.integers(0, 10_000),
    st.integers(0, 10**14),
)
def test_several_at_once_are_each_as_one_alone(buckets, tokens, now):
    terms = [(rate.quota, rate.window_ns, of_tokens) for rate, of_tokens, _ in buckets]
    tats = [tat for *_, tat in buckets]
    new, worst_ns, index = after(terms, tats, tokens, now)
    alone = [
        rate.take(tat, min(tokens, rate.quota) if of_tokens else 1, now) for rate, of_tokens, tat in buckets
    ]
    assert new == alone
    excesses = [rate.excess_ns(tat, now) for (rate, *_), tat in zip(buckets, alone, strict=True)]
    assert worst_ns == max(excesses, default=0)
    assert not worst_ns or index == excesses.index(worst_ns)
    assert charged(terms, tats, tokens, now) == (None if worst_ns else alone)
    assert tats == [tat for *_, tat in buckets]


@given(rates, rates, st.integers(0, 10**19), st.integers(0, 10**14))
def test_what_was_used_stays_used_under_another_rate(old, new, tat, now):
    used = max(Fraction(0), Fraction(tat - now * old.quota, old.window_ns))
    carried = old.carried(tat, now, new)
    still_used = max(Fraction(0), Fraction(carried - now * new.quota, new.window_ns))
    assert used <= still_used < used + Fraction(1, new.window_ns)
    if new.window_ns == old.window_ns:
        assert still_used == used
