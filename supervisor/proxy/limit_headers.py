"""The one place that writes limits as header lines: IETF's, OpenAI's and Anthropic's.

draft-ietf-httpapi-ratelimit-headers-11: quoted policy names, ``q`` and ``w`` in RateLimit-Policy, ``r`` and ``t`` in
RateLimit. The draft has no unit for tokens, so these carry a parameter of our own. Of several limits of one kind
OpenAI's and Anthropic's fields can tell one: the one with the least remaining.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache

from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Standing
from supervisor.ratelimit.pools import Limit, Unit

MS_NS = 10**6
MAX_OBEYED_S = 60  # SDKs follow no longer wait than this; they would come back sooner, again and again
JITTER = 0.1  # of the wait, added: those refused together do not come back together


@cache  # the limits of a configuration are few
def _policy(limit: Limit) -> str:
    unit = ';llmsup-unit="tokens"' if limit.unit is Unit.TOKENS else ""
    return f'"{limit.name}";q={limit.rate.quota};w={limit.rate.window_ns // SECOND_NS}{unit}'


def ietf(standings: Sequence[Standing]) -> bytes:
    if not standings:
        return b""
    policies = ", ".join([_policy(one.limit) for one in standings])
    left = ", ".join(
        [f'"{one.limit.name}";r={one.remaining};t={-(-one.reset_ns // SECOND_NS)}' for one in standings]
    )
    return f"RateLimit-Policy: {policies}\r\nRateLimit: {left}\r\n".encode("ascii")


def openai(standings: Sequence[Standing]) -> bytes:
    lines = [
        f"x-ratelimit-limit-{unit}: {one.limit.rate.quota}\r\n"
        f"x-ratelimit-remaining-{unit}: {one.remaining}\r\n"
        f"x-ratelimit-reset-{unit}: {go_duration(one.reset_ns)}\r\n"
        for unit, one in _tightest(standings)
    ]
    return "".join(lines).encode("ascii")


def anthropic(standings: Sequence[Standing], wall: datetime) -> bytes:
    """For /v1/messages. ``wall``: now, in UTC."""
    lines = []
    for unit, one in _tightest(standings):
        reset = wall + timedelta(microseconds=-(-one.reset_ns // 1000))
        if reset.microsecond:
            reset += timedelta(seconds=1)  # to the second, which is cut off below, rounded up
        lines.append(
            f"anthropic-ratelimit-{unit}-limit: {one.limit.rate.quota}\r\n"
            f"anthropic-ratelimit-{unit}-remaining: {one.remaining}\r\n"
            f"anthropic-ratelimit-{unit}-reset: {reset:%Y-%m-%dT%H:%M:%SZ}\r\n"
        )
    return "".join(lines).encode("ascii")


def retry(wait_ns: int, chance: Callable[[], float]) -> bytes:
    """When to come back: never before the wait is over, never at once. ``chance``: of 0 to 1, like random.random."""
    wait_ms = max(1, -(-math.ceil(wait_ns * (1 + JITTER * chance())) // MS_NS))
    lines = b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % (-(-wait_ms // 1000), wait_ms)
    return lines + b"x-should-retry: false\r\n" if wait_ms > MAX_OBEYED_S * 1000 else lines


def go_duration(ns: int) -> str:
    """As Go writes them, to the millisecond, rounded up: ``0s``, ``12ms``, ``1.5s``, ``6m0s``, ``1h0m0.25s``."""
    ms = -(-ns // MS_NS)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{ms // 1000}.{ms % 1000:03}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _tightest(standings: Sequence[Standing]) -> list[tuple[str, Standing]]:
    found: dict[str, Standing] = {}
    for one in standings:
        best = found.get(one.limit.unit.value)
        if best is None or (one.remaining, -one.reset_ns) < (best.remaining, -best.reset_ns):
            found[one.limit.unit.value] = one
    return list(found.items())
