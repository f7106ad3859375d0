"""How much of what is offered may be written: a bucket that, once empty, waits until a good part is back.

Without that pause a flood of short lines would be line, gap, line, gap: every gap is said in the file.
"""

from supervisor.types import MIB

RATE_BYTES_S = MIB  # an ordinary llama-server writes a few KiB for each request
BURST_BYTES = 16 * MIB  # the whole log of loading a model, with --verbose, fits


class Pace:
    """``now`` in seconds of any steady clock."""

    def __init__(self, rate_bytes_s: float = RATE_BYTES_S, burst_bytes: float = BURST_BYTES) -> None:
        self._rate = rate_bytes_s
        self._burst = burst_bytes
        self._tokens = burst_bytes
        self._at: float | None = None
        self._closed = False

    def admits(self, size: int, now: float) -> bool:
        """Whether ``size`` bytes may pass; if so, they are counted."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._closed and self._tokens >= min(self._rate, self._burst):  # a second's worth
            self._closed = False
        if not self._closed and size > self._tokens:
            self._closed = True
        if not self._closed:
            self._tokens -= size
        return not self._closed
