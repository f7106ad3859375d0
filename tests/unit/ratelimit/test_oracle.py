"""The limiter against a library that many use: the same requests are admitted, and the same waits are told.

pyrate-limiter's GCRA is exact to the microsecond where the rate divides, and counts time in milliseconds: so do these.
"""

from hypothesis import given
from hypothesis import strategies as st
from pyrate_limiter import GCRA, Duration, Rate

from supervisor.ratelimit.limiter import Limiter, Refused
from supervisor.ratelimit.pools import pool

MS = 10**6
START_MS = 1_700_000_000_000
per_minute = st.sampled_from([1, 2, 5, 60, 96])  # divide a minute into whole microseconds
per_hour = st.sampled_from([3, 10, 120, 1000])
asked = st.lists(
    st.tuples(st.sampled_from("ab"), st.one_of(st.just(0), st.integers(0, 90_000))), min_size=1, max_size=150
)


@given(per_minute, per_hour, asked)
def test_requests_in_a_minute_and_an_hour(minute, hour, requests):
    subject = Limiter({"anonymous": pool("anonymous", requests_per_minute=minute, requests_per_hour=hour)})
    rates = [Rate(minute, Duration.MINUTE), Rate(hour, Duration.HOUR)]
    oracle = GCRA()
    states = dict.fromkeys("ab", oracle.initial(rates))
    now_ms = START_MS
    for client, later_ms in requests:
        now_ms += later_ms
        mine = subject.admit(client, "anonymous", 0, now_ms * MS)
        states[client], its = oracle.step(rates, states[client], now_ms, 1)
        assert isinstance(mine, Refused) is not its.allowed
        if isinstance(mine, Refused) and mine.limit == ("rpm" if its.failing_rate is rates[0] else "rph"):
            assert (
                -(-mine.wait_ns // MS) == its.retry_after_ms
            )  # it tells the first that fails, we the longest


@given(
    st.sampled_from([100, 6000, 60_000]),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 20_000)), min_size=1, max_size=150),
)
def test_tokens_in_a_minute(quota, requests):
    subject = Limiter({"anonymous": pool("anonymous", tokens_per_minute=quota)})
    rates = [Rate(quota, Duration.MINUTE)]
    oracle = GCRA()
    state = oracle.initial(rates)
    now_ms = START_MS
    for tokens, later_ms in requests:
        now_ms += later_ms
        mine = subject.admit("a", "anonymous", tokens, now_ms * MS)
        state, its = oracle.step(rates, state, now_ms, tokens)
        assert isinstance(mine, Refused) is not its.allowed
        if isinstance(mine, Refused):
            assert -(-mine.wait_ns // MS) == its.retry_after_ms
