"""What one client has used: a TAT for each limit of its pool, and its requests of this moment."""

from supervisor.ratelimit import gcra
from supervisor.ratelimit.pools import Pool, Unit


class Account:
    """``tats``: one for each of ``pool.limits``; ``seen_ns``: its last request."""

    __slots__ = ("in_flight", "pool", "seen_ns", "tats")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.tats = [gcra.FULL] * len(pool.limits)
        self.in_flight = 0
        self.seen_ns = 0

    def __repr__(self) -> str:
        return f"<Account in {self.pool.name}, {self.in_flight} in flight>"

    @property
    def crowded(self) -> bool:
        concurrent = self.pool.concurrent
        return concurrent is not None and self.in_flight >= concurrent

    def settle(self, reserved: int, used: int, now_ns: int) -> None:
        """Put what was really used in the place of the estimate. May leave a debt, which later requests wait for."""
        for index, limit in enumerate(self.pool.limits):
            if limit.unit is Unit.TOKENS:
                more = used - min(reserved, limit.rate.quota)
                self._move(index, more, now_ns)

    def refund(self, reserved: int, now_ns: int) -> None:
        """As if the request had never been."""
        for index, limit in enumerate(self.pool.limits):
            taken = 1 if limit.unit is Unit.REQUESTS else min(reserved, limit.rate.quota)
            self._move(index, -taken, now_ns)

    def _move(self, index: int, quantity: int, now_ns: int) -> None:
        rate = self.pool.limits[index].rate
        if quantity >= 0:
            self.tats[index] = rate.take(self.tats[index], quantity, now_ns)
        else:
            self.tats[index] = rate.give(self.tats[index], -quantity)

    def blank(self, now_ns: int) -> bool:
        """Whether forgetting it would change no verdict."""
        return self.in_flight == 0 and all(
            limit.rate.full_in_ns(tat, now_ns) == 0
            for limit, tat in zip(self.pool.limits, self.tats, strict=True)
        )
