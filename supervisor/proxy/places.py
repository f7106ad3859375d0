"""Who gives up a place when there are too few: what is incomplete and nobody's known first. Pure.

A place is a connection. An address that keeps many requests incomplete loses its slowest ones beyond a bound, always; all
others go on. When all places are taken, those go first who have had their last answer, then
incomplete requests, those of whoever has most of them before others, then idle connections; a request that is being answered keeps its place. Where that makes no room, a few places beyond
the limit are for health checks and for clients with keys.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

SPARE = 32  # places beyond the limit, for health checks and keys
TIME_TO_COME_S = 1.0  # an honest request is complete by then, mostly
AT_LEAST, PART = 32, 8  # incomplete requests of one address: an eighth of all places
TOGETHER = 20  # of those that may go, one in so many goes at once, so that this is rare


class Place(Protocol):
    peer: str
    since: float
    begun: float

    @property
    def idle(self) -> bool:
        """Nothing is asked or answered."""

    @property
    def unfinished(self) -> bool:
        """Part of a request has come, of somebody who has shown no key."""

    @property
    def refused(self) -> bool:
        """It has had its last answer, and still sends."""


P = TypeVar("P", bound=Place)


def bound(places: int) -> int:
    """How many requests one address may have incomplete."""
    return max(AT_LEAST, places // PART)


def crowding(unfinished: Iterable[P], most: int, now: float) -> list[P]:
    """Those of each address beyond the bound, the longest incomplete ones."""
    of: dict[str, list[P]] = {}
    for one in unfinished:
        if now - one.begun >= TIME_TO_COME_S:
            of.setdefault(one.peer, []).append(one)
    gone: list[P] = []
    for some in of.values():
        if len(some) > most:
            some.sort(key=lambda one: one.begun)
            gone += some[: len(some) - most]
    return gone


def to_go(places: Collection[P], most: int, now: float) -> list[P]:
    """Who leaves so that there is room; nobody, where all are being answered. ``most``: as for `crowding`."""
    refused = [one for one in places if one.refused]
    if refused:
        return _some(sorted(refused, key=lambda one: one.since))
    unfinished = [one for one in places if one.unfinished]
    count = Counter(one.peer for one in unfinished)
    slow = [one for one in unfinished if now - one.begun >= TIME_TO_COME_S or count[one.peer] > most]
    if slow:
        return _some(sorted(slow, key=lambda one: (-count[one.peer], one.begun)))
    return _some(sorted((one for one in places if one.idle), key=lambda one: one.since))


def _some(willing: list[P]) -> list[P]:
    return willing[: 1 + len(willing) // TOGETHER]
