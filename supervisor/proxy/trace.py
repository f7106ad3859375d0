"""Trace context (W3C, level 1) for requests that bring none: so that every line about one can be joined.

An id must be unique and its low bits evenly spread (samplers look at them); it is no secret. So it is this
process's 64 random bits, then a Weyl sequence over the other 64, which meets each number once: a quarter of
what fresh random bits cost. Flags are 00: nothing has been recorded by whoever asked.
"""

import os

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the steps of the sequence lie far apart
_MASK = (1 << 64) - 1


class Traces:
    """Makes ``traceparent`` values, no two alike."""

    __slots__ = ("_last", "_prefix")

    def __init__(self, seed: bytes = b"") -> None:
        seed = seed or os.urandom(16)
        self._prefix = b"00-%016x" % (int.from_bytes(seed[:8]) or 1)  # an id must not be all zeros
        self._last = int.from_bytes(seed[8:16])

    def new(self) -> bytes:
        """Trace and parent share the number: a parent need only be unique within its trace."""
        self._last = number = (self._last + _GOLDEN) & _MASK or _GOLDEN
        return b"%b%016x-%016x-00" % (self._prefix, number, number)
