"""How fast a body has to come. Pure.

Apache's mod_reqtimeout and nginx count from one byte to the next or from the start only: a byte now and then, or megabytes and then
silence, holds a place for hours. Here each span of time must bring its part, unless the body is whole before its end.
"""

from supervisor.types import KIB

SPAN_S, BYTES_PER_S = (
    20.0,
    4 * KIB,
)  # less than a modem's: who is slower has no use for a language model's port
MOST_S = 600.0  # 32 MiB at half a Mbit/s
# While others wait because bodies on their way fill all the memory there is for them, large ones have to move.
CROWDED_SPAN_S, CROWDED_BYTES_PER_S = 5.0, 64 * KIB


class Pace:
    """Of one body. Times are monotonic seconds; what is held up by us is to begin a new one."""

    __slots__ = ("_began_at", "_long", "_short")

    def __init__(self, now: float, size: int) -> None:
        self._began_at = now
        self._long = self._short = (now, size)

    def __repr__(self) -> str:
        return f"<Pace since {self._began_at:.0f}>"

    def too_slow(self, now: float, size: int, *, crowded: bool) -> str | None:
        """Why a body of which ``size`` bytes have come need not be waited for any longer; to be asked about once a second."""
        if now - self._began_at > MOST_S:
            return f"the body took longer than {MOST_S:g} s"
        at, before = self._short
        if now - at >= CROWDED_SPAN_S:
            if crowded and size - before < CROWDED_SPAN_S * CROWDED_BYTES_PER_S:
                return f"others wait for room, and the body came at less than {CROWDED_BYTES_PER_S} bytes a second"
            self._short = (now, size)
        at, before = self._long
        if now - at >= SPAN_S:
            if size - before < SPAN_S * BYTES_PER_S:
                return f"the body came at less than {BYTES_PER_S} bytes a second"
            self._long = (now, size)
        return None
