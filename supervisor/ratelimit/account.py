"""What one client has used: a TAT for each limit of its pool, and its requests of this moment."""

from supervisor.ratelimit import gcra
from supervisor.ratelimit.pools import Pool, Unit

NEVER = -(10**20)  # longer ago than any clock tells


class Account:
    """``tats``: one for each of ``pool.limits``; ``seen_ns``: its last request, or up to `limiter.ORDER_NS` before it."""

    __slots__ = ("in_flight", "pool", "seen_ns", "tats")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.tats = [gcra.FULL] * len(pool.limits)
        self.in_flight = 0
        self.seen_ns = NEVER

    def __repr__(self) -> str:
        return f"<Account in {self.pool.name}, {self.in_flight} in flight>"

    @property
    def crowded(self) -> bool:
        return self.in_flight >= self.pool.places

    def settle(self, then: Pool, reserved: int, used: int, now_ns: int) -> None:
        """Put what was really used in the place of the estimate. May leave a debt, which later requests wait for.

        ``then``: the pool as it was when the estimate was charged, here and in `refund`.
        """
        index = 0
        for quota, window_ns, of_tokens in self.pool.terms:
            if of_tokens:
                more = used - (
                    min(reserved, quota) if then is self.pool else self._charged(index, then, reserved)
                )
                tat = self.tats[index]
                if more > 0:
                    tat = max(tat, now_ns * quota)
                self.tats[index] = max(gcra.FULL, tat + more * window_ns)  # `Rate.take` and `Rate.give`
            index += 1  # noqa: SIM113  enumerate() costs more than the sum

    def refund(self, then: Pool, reserved: int) -> None:
        """As if the request had never been."""
        for index, limit in enumerate(self.pool.limits):
            self.tats[index] = limit.rate.give(self.tats[index], self._charged(index, then, reserved))

    def _charged(self, index: int, then: Pool, reserved: int) -> int:
        """What a request took of this limit when it was admitted; of one that was not there, nothing."""
        limit = self.pool.limits[index]
        for old in then.limits:
            if old.name == limit.name and old.unit is limit.unit:
                return 1 if limit.unit is Unit.REQUESTS else min(reserved, old.rate.quota)
        return 0

    def carry(self, pool: Pool, now_ns: int) -> None:
        """Go on under other limits: what was used of one that remains stays used, in units; a new one begins full."""
        kept = {limit.name: (limit, tat) for limit, tat in zip(self.pool.limits, self.tats, strict=True)}
        tats = []
        for limit in pool.limits:
            old, tat = kept.get(limit.name, (limit, gcra.FULL))
            tats.append(old.rate.carried(tat, now_ns, limit.rate) if old.unit is limit.unit else gcra.FULL)
        self.pool, self.tats = pool, tats

    def blank(self, now_ns: int) -> bool:
        """Whether forgetting it would change no verdict."""
        return self.in_flight == 0 and all(
            limit.rate.full_in_ns(tat, now_ns) == 0
            for limit, tat in zip(self.pool.limits, self.tats, strict=True)
        )
