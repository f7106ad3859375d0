"""The limits of one class of clients, as the rates that are checked in their order."""

import sys
from dataclasses import dataclass, field
from enum import StrEnum

from supervisor.ratelimit.gcra import SECOND_NS, Rate, Terms

MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
OF_KEYS = "+keys"  # behind a pool's name: the same limits, for those of it with a key; configured names have no plus


class Unit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Limit:
    """``name``: what the client is told it is called (``rpm``, ``rph``, ``tpm``, ``tpd``; ``all-`` before a shared one)."""

    name: str
    unit: Unit
    rate: Rate


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Equal only to itself: a pool that was read anew is another one.

    ``limits``: those of requests first; ``concurrent``: requests at once, None for any number; ``weight``, ``batch``:
    its clients' share of the queue, and whether they wait behind the interactive. The rest is derived: ``terms`` as
    `gcra.after` has them, ``places`` for requests at once, and whether a request's tokens matter.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    concurrent: int | None = None
    weight: float = 1.0
    batch: bool = False
    terms: tuple[Terms, ...] = field(init=False, repr=False)
    places: int = field(init=False, repr=False)
    of_tokens: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        limits = tuple(sorted(self.limits, key=lambda limit: limit.unit is Unit.TOKENS))
        terms = tuple((one.rate.quota, one.rate.window_ns, one.unit is Unit.TOKENS) for one in limits)
        for name, value in (
            ("limits", limits),
            ("terms", terms),
            ("places", sys.maxsize if self.concurrent is None else self.concurrent),
            ("of_tokens", any(limit.unit is Unit.TOKENS for limit in limits)),
        ):
            object.__setattr__(self, name, value)  # frozen, but for this


def pool(
    name: str,
    *,
    requests_per_minute: int | None = None,
    requests_per_hour: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_day: int | None = None,
    concurrent: int | None = None,
    shared: bool = False,
    weight: float = 1.0,
    batch: bool = False,
) -> Pool:
    """From the configuration's numbers; None: no such limit. ``shared``: one bucket for the whole pool."""
    rows = (
        ("rpm", Unit.REQUESTS, requests_per_minute, MINUTE_NS),
        ("rph", Unit.REQUESTS, requests_per_hour, HOUR_NS),
        ("tpm", Unit.TOKENS, tokens_per_minute, MINUTE_NS),
        ("tpd", Unit.TOKENS, tokens_per_day, DAY_NS),
    )
    prefix = "all-" if shared else ""
    limits = tuple(
        Limit(prefix + short, unit, Rate(quota, window_ns))
        for short, unit, quota, window_ns in rows
        if quota is not None
    )
    return Pool(name, limits, concurrent, weight, batch)
