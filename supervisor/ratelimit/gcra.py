"""The generic cell rate algorithm, exact: integers only, and the time is an argument.

A bucket is one integer, its theoretical arrival time (TAT), kept in *ticks* of 1/quota nanosecond: one unit of the
quota is then worth exactly `window_ns` ticks, and no rate, whatever it divides by, is ever rounded. A bucket holds
`quota` units, starts full and refills evenly; a TAT in the past means full.

After ITU-T I.371 (virtual scheduling), with quantities and refunds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

SECOND_NS = 10**9
FULL = 0  # the TAT of a bucket that nobody has taken from; of any time, for no clock is before 0


@dataclass(frozen=True, slots=True)
class Rate:
    """``quota`` units in each ``window_ns``; all methods are pure functions of a TAT in ticks and a time in ns."""

    quota: int
    window_ns: int

    def take(self, tat: int, quantity: int, now_ns: int) -> int:
        """The TAT after taking, whether or not that much is there: `excess_ns` says."""
        return max(tat, now_ns * self.quota) + quantity * self.window_ns

    def excess_ns(self, tat: int, now_ns: int) -> int:
        """By how much, rounded up, this TAT is more than the bucket holds; 0: it fits."""
        over = tat - (now_ns + self.window_ns) * self.quota
        return -(-over // self.quota) if over > 0 else 0

    def give(self, tat: int, quantity: int) -> int:
        """The TAT after a refund. A bucket never gets fuller than full: a TAT in the past is as good as now."""
        return max(FULL, tat - quantity * self.window_ns)

    def remaining(self, tat: int, now_ns: int) -> int:
        """Whole units that can be taken now; 0 where more was taken than there was."""
        level = max(0, tat - now_ns * self.quota)
        return max(0, self.quota - -(-level // self.window_ns))

    def wait_ns(self, tat: int, quantity: int, now_ns: int) -> int:
        """Until ``quantity`` can be taken; of more than the quota, until the bucket is full."""
        return self.excess_ns(self.take(tat, min(quantity, self.quota), now_ns), now_ns)

    def carried(self, tat: int, now_ns: int, other: "Rate") -> int:
        """The TAT in a bucket of another rate: as many units stay used, a part of a tick rounded up."""
        used = tat - now_ns * self.quota
        if used <= 0:
            return FULL
        return now_ns * other.quota - (-used * other.window_ns // self.window_ns)

    def full_in_ns(self, tat: int, now_ns: int) -> int:
        """Until the bucket is as if nobody had taken from it, rounded up."""
        return max(0, -((now_ns * self.quota - tat) // self.quota))


Terms = tuple[int, int, bool]  # quota, window_ns, whether tokens are taken (else one request)


def after(terms: Iterable[Terms], tats: list[int], tokens: int, now_ns: int) -> tuple[list[int], int, int]:
    """Several buckets at once: `Rate.take` and `Rate.excess_ns` written out, for each call costs as much as the sum.

    Returns:
        the TATs if one more request of ``tokens`` (at most the quota of each) were charged, the largest excess in ns,
        and the index of its bucket.
    """
    new: list[int] = []
    worst_ns = worst = 0
    for quota, window_ns, of_tokens in terms:
        now = now_ns * quota
        tat = tats[len(new)]
        cost = (tokens if tokens < quota else quota) * window_ns if of_tokens else window_ns  # noqa: FURB136  calls cost
        tat = (tat if tat > now else now) + cost  # noqa: FURB136  calls cost
        over = tat - now - window_ns * quota
        if over > 0:
            excess_ns = -(-over // quota)
            if excess_ns > worst_ns:
                worst_ns, worst = excess_ns, len(new)
        new.append(tat)
    return new, worst_ns, worst


def charged(buckets: Iterable[Terms], tats: list[int], tokens: int, now_ns: int) -> list[int] | None:
    """The TATs as in `after`, or None where the request does not fit: what is asked of every request, at 0.6 of the cost."""
    new: list[int] = []
    index = 0
    for quota, window_ns, of_tokens in buckets:
        now = now_ns * quota
        tat = tats[index]
        index += 1  # noqa: SIM113  enumerate() costs more than the sum
        cost = (tokens if tokens < quota else quota) * window_ns if of_tokens else window_ns  # noqa: FURB136  calls cost
        if tat <= now:
            new.append(now + cost)
        elif tat + cost - now <= window_ns * quota:
            new.append(tat + cost)
        else:
            return None
    return new
