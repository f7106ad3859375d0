"""A circuit breaker for one model: after failures in a row nothing is sent until canaries have come back. Pure.

    closed --failures in a row--> open --reset time--> half open --canaries answered--> closed, slowly
                                    ^----------- a canary fails -----------|

What counts is the transport: connections refused or broken, and exits. A 500 is an answer. One failure a
time of doubt: ten requests that die with one child are one failure. Clients are never the canaries: they wait.
The pattern is Nygard's ("Release It!"); the slow start is nginx's, in doublings, so that a child that has just come back
is not met by everybody at once.
"""

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerBounds:
    """From ``circuit_breaker:`` of the configuration."""

    failure_threshold: int = 5
    reset_timeout_s: float = 30.0
    half_open_requests: int = 2


class Breaker:
    """Times are monotonic seconds, given by the caller."""

    def __init__(self, bounds: BreakerBounds) -> None:
        self._bounds = bounds
        self._failures = 0  # in a row
        self._answered = 0  # canaries, in a row
        self._allowance = 0  # requests at once during the slow start; 0: no such bound
        self.state = BreakerState.CLOSED
        self.until = 0.0  # when it half-opens, while open

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {self._failures} failures in a row>"

    @property
    def closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def admits(self, active: int) -> bool:
        """Whether one more may be sent while ``active`` are."""
        return self.state is BreakerState.CLOSED and (not self._allowance or active < self._allowance)

    def failed(self, now: float) -> bool:
        """One more failure; True when it has opened for that."""
        self._failures += 1
        if self.state is BreakerState.OPEN or self._failures < self._bounds.failure_threshold:
            return False
        self._open(now)
        return True

    def succeeded(self, slots: int) -> None:
        """A request has been answered, well or not."""
        self._failures = 0
        if self._allowance:
            self._allowance *= 2
            if self._allowance >= slots:
                self._allowance = 0

    def due(self, now: float) -> bool:
        """Whether it is time for canaries; it is half open from then on."""
        if self.state is not BreakerState.OPEN or now < self.until:
            return False
        self.state, self._answered = BreakerState.HALF_OPEN, 0
        return True

    def canary(self, now: float, *, answered: bool) -> bool:
        """One canary's end; True when it has closed for that."""
        if self.state is not BreakerState.HALF_OPEN:
            return False
        if not answered:
            self._open(now)
            return False
        self._answered += 1
        if self._answered < self._bounds.half_open_requests:
            return False
        self.state, self._failures, self._allowance = BreakerState.CLOSED, 0, 1
        return True

    def _open(self, now: float) -> None:
        self.state, self.until = BreakerState.OPEN, now + self._bounds.reset_timeout_s
