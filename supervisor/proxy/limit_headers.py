"""The one place that writes limits as header lines: IETF's, OpenAI's and Anthropic's.

draft-ietf-httpapi-ratelimit-headers-11: quoted policy names, ``q`` and ``w`` in RateLimit-Policy, ``r`` and ``t`` in
RateLimit. The draft has no unit for tokens, so these carry a parameter of our own. Of several limits of one kind
OpenAI's and Anthropic's fields can tell one: the one with the least remaining.

An admitted request is told its client's own limits. What all of a pool have used together is told in a refusal and
not before: no client could keep within it, ``r`` is no promise in the draft either, and it would tell each of them
what the others do.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol

from supervisor.ratelimit.account import Account
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Standing
from supervisor.ratelimit.pools import Limit, Pool, Unit

MS_NS = 10**6
MAX_OBEYED_S = 60  # SDKs follow no longer wait than this; they would come back sooner, again and again
JITTER = 0.1  # of the wait, added: those refused together do not come back together

_OPENAI = (
    "x-ratelimit-limit-{0}: {1}\r\n"
    "x-ratelimit-remaining-{0}: {2}\r\n"
    "x-ratelimit-reset-{0}: {3}\r\n"
)  # fmt: skip
_ANTHROPIC = (
    "anthropic-ratelimit-{0}-limit: {1}\r\n"
    "anthropic-ratelimit-{0}-remaining: {2}\r\n"
    "anthropic-ratelimit-{0}-reset: {3}\r\n"
)


class Granted(Protocol):
    """An admitted request: its client's own account, wherever it is kept."""

    @property
    def own(self) -> Account: ...


def lines(grant: Granted, now_ns: int) -> bytes:
    """For an admitted request: IETF's lines and OpenAI's."""
    own = grant.own
    if not own.tats:
        return b""
    form = _form(own.pool)
    return form.openai % form.values(own.tats, now_ns, go_duration)


def lines_anthropic(grant: Granted, now_ns: int, wall: datetime) -> bytes:
    """For an admitted request to /v1/messages. ``wall``: now, in UTC."""
    own = grant.own
    if not own.tats:
        return b""
    form = _form(own.pool)
    return form.anthropic % form.values(own.tats, now_ns, lambda reset_ns: _date(wall, reset_ns))


def refused_lines(standings: Sequence[Standing], wall: datetime | None = None) -> bytes:
    """For a refusal, beside `retry`. ``wall``: now, in UTC, for /v1/messages; None: OpenAI's lines."""
    return ietf(standings) + (openai(standings) if wall is None else anthropic(standings, wall))


class Form:
    """The lines of one pool's limits as templates, for most of them never changes."""

    __slots__ = ("_units", "anthropic", "openai")

    def __init__(self, pool: Pool) -> None:
        rows: dict[str, list[tuple[int, int, int, int]]] = {}  # by unit; those of requests come first
        for index, limit in enumerate(pool.limits):
            quota, window_ns = limit.rate.quota, limit.rate.window_ns
            rows.setdefault(limit.unit.value, []).append((index, quota, window_ns, (quota - 1) * window_ns))
        self._units = tuple(rows.values())
        left = ", ".join([f'"{one.name}";r=%d;t=%d' for one in pool.limits])
        both = f"RateLimit-Policy: {', '.join(map(_policy, pool.limits))}\r\nRateLimit: {left}\r\n"
        self.openai, self.anthropic = (
            (both + "".join([lines.format(unit, "%d", "%d", "%b") for unit in rows])).encode("ascii")
            for lines in (_OPENAI, _ANTHROPIC)
        )

    def values(
        self, tats: list[int], now_ns: int, written: Callable[[int], bytes]
    ) -> tuple[int | bytes, ...]:
        """What stands in the places of a template. ``written``: when a reset comes, given the ns until then.

        `limiter.standings` written out, and the limit to tell found on the way: every answer is told it.
        """
        left: list[int] = []
        told: list[int | bytes] = []
        for rows in self._units:
            least = longest_ns = of = -1
            for index, quota, window_ns, room in rows:
                level = tats[index] - now_ns * quota
                if level <= 0:
                    remaining, reset_ns = quota, 0
                elif level <= room:
                    remaining, reset_ns = quota + -level // window_ns, -(-level // quota)
                else:
                    remaining, reset_ns = 0, -((room - level) // quota)
                left += (remaining, -(-reset_ns // SECOND_NS))
                if least < 0 or remaining < least or (remaining == least and reset_ns > longest_ns):
                    least, longest_ns, of = remaining, reset_ns, quota
            told += (of, least, written(longest_ns))
        return (*left, *told)


_form = lru_cache(maxsize=64)(Form)  # a pool is equal only to itself, and a configuration has few


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
    return _fields(_OPENAI, standings, go_duration)


def anthropic(standings: Sequence[Standing], wall: datetime) -> bytes:
    """For /v1/messages. ``wall``: now, in UTC."""
    return _fields(_ANTHROPIC, standings, lambda reset_ns: _date(wall, reset_ns))


def _fields(template: str, standings: Sequence[Standing], written: Callable[[int], bytes]) -> bytes:
    return "".join(
        [
            template.format(unit, one.limit.rate.quota, one.remaining, written(one.reset_ns).decode("ascii"))
            for unit, one in _tightest(standings)
        ]
    ).encode("ascii")


def _date(wall: datetime, reset_ns: int) -> bytes:
    """To the second, rounded up."""
    reset = wall + timedelta(microseconds=-(-reset_ns // 1000))
    if reset.microsecond:
        reset += timedelta(seconds=1)
    return b"%bZ" % reset.isoformat()[:19].encode("ascii")


def retry(wait_ns: int, chance: Callable[[], float]) -> bytes:
    """When to come back: never before the wait is over, never at once. ``chance``: of 0 to 1, like random.random."""
    wait_ms = max(1, -(-math.ceil(wait_ns * (1 + JITTER * chance())) // MS_NS))
    if wait_ns <= MAX_OBEYED_S * SECOND_NS:  # nor so late that it is not obeyed any more
        wait_ms = min(wait_ms, MAX_OBEYED_S * 1000)
    lines = b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % (-(-wait_ms // 1000), wait_ms)
    return lines + b"x-should-retry: false\r\n" if wait_ns > MAX_OBEYED_S * SECOND_NS else lines


def go_duration(ns: int) -> bytes:
    """As Go writes them, rounded up: to ms below a second, else to seconds. ``0s``, ``12ms``, ``6m0s``, ``1h0m1s``."""
    if ns > 999 * MS_NS:
        return _whole(-(-ns // SECOND_NS))
    return b"%dms" % -(-ns // MS_NS) if ns else b"0s"


@lru_cache(maxsize=4096)
def _whole(seconds: int) -> bytes:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds


def _tightest(standings: Sequence[Standing]) -> list[tuple[str, Standing]]:
    found: dict[str, Standing] = {}
    for one in standings:
        best = found.get(one.limit.unit.value)
        if best is None or (one.remaining, -one.reset_ns) < (best.remaining, -best.reset_ns):
            found[one.limit.unit.value] = one
    return list(found.items())
