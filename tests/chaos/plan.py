"""Which fault comes next, and after what pause. Pure: the same seed, the same faults in the same order.

Faults are dealt like cards: all of them in a shuffled order, then all again, so that each comes up soon. One that may
come only so often in a run is left out once it has.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PAUSE_S = (0.2, 1.5)  # between one recovery and the next fault


@dataclass(frozen=True, slots=True)
class Turn:
    """``seed`` is for what the fault itself leaves to chance."""

    pause_s: float
    fault: str
    seed: int


def turns(seed: int, limits: Mapping[str, int | None]) -> Iterator[Turn]:
    """``limits``: the faults, and how often each may come (None: as often as you like). Ends when none is left."""
    dice, used = random.Random(seed), Counter[str]()
    while deck := [name for name in sorted(limits) if _may(limits[name], used[name])]:
        dice.shuffle(deck)
        for name in deck:
            used[name] += 1
            yield Turn(dice.uniform(*PAUSE_S), name, dice.randrange(2**32))


def _may(limit: int | None, used: int) -> bool:
    return limit is None or used < limit
