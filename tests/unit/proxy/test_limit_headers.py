"""What clients are told of their limits, byte for byte."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy import limit_headers
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Grant, Limiter, Standing
from supervisor.ratelimit.pools import pool

MS = 10**6
RPM, RPH, TPM = pool("p", requests_per_minute=60, requests_per_hour=1000, tokens_per_minute=20_000).limits
STANDINGS = [
    Standing(RPM, 41, 18 * SECOND_NS + 1),
    Standing(RPH, 12, 3556 * SECOND_NS),
    Standing(TPM, 13_850, 1500 * MS),
]


def test_ietf_draft_11():
    assert limit_headers.ietf(STANDINGS) == (
        b'RateLimit-Policy: "rpm";q=60;w=60, "rph";q=1000;w=3600, "tpm";q=20000;w=60;llmsup-unit="tokens"\r\n'
        b'RateLimit: "rpm";r=41;t=19, "rph";r=12;t=3556, "tpm";r=13850;t=2\r\n'
    )


def test_openai_tells_the_limit_with_the_least_remaining():
    assert limit_headers.openai(STANDINGS) == (
        b"x-ratelimit-limit-requests: 1000\r\n"
        b"x-ratelimit-remaining-requests: 12\r\n"
        b"x-ratelimit-reset-requests: 59m16s\r\n"
        b"x-ratelimit-limit-tokens: 20000\r\n"
        b"x-ratelimit-remaining-tokens: 13850\r\n"
        b"x-ratelimit-reset-tokens: 2s\r\n"
    )


def test_of_two_that_are_used_up_the_longer_one():
    standings = [Standing(RPM, 0, SECOND_NS), Standing(RPH, 0, 4 * SECOND_NS)]
    assert b"reset-requests: 4s\r\n" in limit_headers.openai(standings)
    assert b"reset-requests: 4s\r\n" in limit_headers.openai(standings[::-1])


def test_anthropic_resets_are_dates_not_too_early():
    wall = datetime(2026, 12, 31, 23, 59, 59, 500_001, UTC)
    assert limit_headers.anthropic(STANDINGS[2:], wall) == (
        b"anthropic-ratelimit-tokens-limit: 20000\r\n"
        b"anthropic-ratelimit-tokens-remaining: 13850\r\n"
        b"anthropic-ratelimit-tokens-reset: 2027-01-01T00:00:02Z\r\n"
    )


rates = st.one_of(st.none(), st.integers(1, 50))


@given(
    *[rates] * 4,
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10**11)), max_size=30),
)
def test_an_admitted_request_is_told_its_clients_own_standings(rpm, rph, tpm, tpd, asked):
    own = pool("p", requests_per_minute=rpm, requests_per_hour=rph, tokens_per_minute=tpm, tokens_per_day=tpd)
    limiter = Limiter({"p": own}, default="p", shared={"p": pool("p", requests_per_hour=40, shared=True)})
    now, wall = 10**15 + 7, datetime(2026, 12, 31, 23, 59, 59, 500_001, UTC)
    for tokens, used, later in asked:
        now += later
        grant = limiter.admit("a", "p", tokens, now)
        if isinstance(grant, Grant):
            grant.settle(used, now)
            standings = grant.standings(now)[:-1]
            ietf = limit_headers.ietf(standings)
            assert limit_headers.lines(grant, now) == ietf + limit_headers.openai(standings)
            told = limit_headers.lines_anthropic(grant, now, wall)
            assert told == ietf + limit_headers.anthropic(standings, wall)


def test_a_refusal_tells_what_all_have_used_together():
    limiter = Limiter(
        {"p": pool("p", requests_per_minute=60)},
        default="p",
        shared={"p": pool("p", requests_per_minute=1, shared=True)},
    )
    assert b"all-" not in limit_headers.lines(limiter.admit("a", "p", 0, SECOND_NS), SECOND_NS)
    assert limiter.admit("a", "p", 0, SECOND_NS).shared
    told = limit_headers.refused_lines(limiter.standings("a", "p", SECOND_NS))
    assert b'RateLimit: "rpm";r=59;t=1, "all-rpm";r=0;t=60\r\n' in told
    assert b"x-ratelimit-remaining-requests: 0\r\n" in told
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    told = limit_headers.refused_lines(limiter.standings("a", "p", SECOND_NS), wall)
    assert b"anthropic-ratelimit-requests-reset: 2026-01-01T00:01:00Z\r\n" in told


def test_without_limits_there_is_nothing_to_tell():
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    grant = Limiter({"p": pool("p", concurrent=1)}, default="p").admit("a", "p", 0, 1)
    assert limit_headers.lines(grant, 1) == limit_headers.lines_anthropic(grant, 1, wall) == b""
    assert limit_headers.ietf([]) == limit_headers.openai([]) == limit_headers.anthropic([], wall) == b""


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, b"0s"),
        (1, b"1ms"),
        (12 * MS, b"12ms"),
        (999 * MS, b"999ms"),
        (999 * MS + 1, b"1s"),
        (1001 * MS, b"2s"),
        (20 * SECOND_NS, b"20s"),
        (60 * SECOND_NS, b"1m0s"),
        (61_500 * MS, b"1m2s"),
        (360 * SECOND_NS, b"6m0s"),
        (3600 * SECOND_NS, b"1h0m0s"),
        (90_000 * SECOND_NS + 250 * MS, b"25h0m1s"),
    ],
)
def test_durations_as_go_writes_them(ns, text):
    assert limit_headers.go_duration(ns) == text


@pytest.mark.parametrize(
    ("wait_ns", "chance", "lines"),
    [
        (1, 0.0, b"Retry-After: 1\r\nretry-after-ms: 1\r\n"),
        (2500 * MS, 0.0, b"Retry-After: 3\r\nretry-after-ms: 2500\r\n"),
        (10 * SECOND_NS, 0.5, b"Retry-After: 11\r\nretry-after-ms: 10500\r\n"),
        (60 * SECOND_NS, 0.0, b"Retry-After: 60\r\nretry-after-ms: 60000\r\n"),
        (60 * SECOND_NS + 1, 0.0, b"Retry-After: 61\r\nretry-after-ms: 60001\r\nx-should-retry: false\r\n"),
    ],
)
def test_when_to_come_back(wait_ns, chance, lines):
    assert limit_headers.retry(wait_ns, lambda: chance) == lines


def test_who_comes_back_when_told_is_admitted():
    now = 10**15 + 7
    limiter = Limiter({"anonymous": pool("anonymous", requests_per_minute=7)})
    for _ in range(7):
        limiter.admit("a", "anonymous", 0, now)
    refused = limiter.admit("a", "anonymous", 0, now)
    told_ms = int(limit_headers.retry(refused.wait_ns, lambda: 0.0).partition(b"-ms: ")[2])
    assert not hasattr(limiter.admit("a", "anonymous", 0, now + told_ms * MS), "wait_ns")
