"""How much memory the bodies of all requests may take together.

Only large bodies count (the small ones are bounded by the number of connections). A sender that
exceeds the budget is not read from until others have finished; one at a time is exempt, so that
half-received bodies cannot wait for each other for ever.
"""

from collections import deque
from typing import Protocol

from supervisor.types import KIB, MIB

BUDGET_BYTES = 256 * MIB
COUNTED_FROM_BYTES = 64 * KIB


class Sender(Protocol):
    def wait_for_budget(self) -> None:
        """Stop reading."""

    def budget_free(self) -> None:
        """Read on."""


class BodyBudget:
    def __init__(self, limit_bytes: int = BUDGET_BYTES) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._exempt: Sender | None = None
        self._waiting: deque[Sender] = deque()

    def __repr__(self) -> str:
        return f"<BodyBudget {self._used} of {self._limit} bytes, {len(self._waiting)} waiting>"

    @property
    def used_bytes(self) -> int:
        return self._used

    def take(self, sender: Sender, size: int) -> None:
        """``size`` more bytes are held; over the limit the sender is told to wait."""
        self._used += size
        if self._used > self._limit and sender is not self._exempt:
            if self._exempt is None:
                self._exempt = sender
            else:
                self._waiting.append(sender)
                sender.wait_for_budget()

    def received(self, sender: Sender) -> None:
        """Its body is complete or given up: it needs no exemption and waits no more."""
        if sender in self._waiting:
            self._waiting.remove(sender)
        if sender is self._exempt:
            self._exempt = self._waiting.popleft() if self._waiting else None
            if self._exempt is not None:
                self._exempt.budget_free()

    def give(self, size: int) -> None:
        """``size`` bytes are held no longer."""
        self._used -= size
        while self._waiting and self._used <= self._limit:
            self._waiting.popleft().budget_free()
