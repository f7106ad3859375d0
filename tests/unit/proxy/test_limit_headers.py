"""What clients are told of their limits, byte for byte."""

from datetime import UTC, datetime

import pytest

from supervisor.proxy import limit_headers
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Limiter, Standing
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
        b"x-ratelimit-reset-tokens: 1.5s\r\n"
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


def test_without_limits_there_is_nothing_to_tell():
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    assert limit_headers.ietf([]) == limit_headers.openai([]) == limit_headers.anthropic([], wall) == b""


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (12 * MS, "12ms"),
        (999 * MS + 1, "1s"),
        (1001 * MS, "1.001s"),
        (20 * SECOND_NS, "20s"),
        (60 * SECOND_NS, "1m0s"),
        (61_500 * MS, "1m1.5s"),
        (360 * SECOND_NS, "6m0s"),
        (3600 * SECOND_NS, "1h0m0s"),
        (90_000 * SECOND_NS + 250 * MS, "25h0m0.25s"),
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
