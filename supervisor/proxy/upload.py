"""How much memory the bodies of all requests may take together.

Only large bodies count (the small ones are bounded by the number of connections). A sender that
exceeds the budget is not read from until others have given theirs back. Complete bodies do so by
themselves: they are answered or refused. Half-received ones could wait for each other for ever, so
while there are no others one sender at a time is exempt.
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
    """Invariant: while anybody waits, there is a complete body or an exempt sender, so the wait ends."""

    def __init__(self, limit_bytes: int = BUDGET_BYTES) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._complete = 0  # of these bytes, those of complete bodies
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
        if self._used <= self._limit or sender is self._exempt or sender in self._waiting:
            return
        self._waiting.append(sender)
        if self._exempt is None and not self._complete:
            self._exempt = self._waiting.popleft()
        if sender is not self._exempt:
            sender.wait_for_budget()

    def complete(self, sender: Sender, size: int) -> None:
        """Its body of ``size`` bytes has been received whole; `give` will follow."""
        self._complete += size
        self._leave(sender)

    def drop(self, sender: Sender, size: int) -> None:
        """It has given up with ``size`` bytes of a body."""
        self._used -= size
        self._leave(sender)

    def give(self, size: int) -> None:
        """``size`` bytes of complete bodies are held no longer."""
        self._used -= size
        self._complete -= size
        self._wake()

    def _leave(self, sender: Sender) -> None:
        if sender in self._waiting:
            self._waiting.remove(sender)
            sender.budget_free()
        if sender is self._exempt:
            self._exempt = None
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._used <= self._limit:
            self._waiting.popleft().budget_free()
        if self._waiting and self._exempt is None and not self._complete:
            self._exempt = self._waiting.popleft()
            self._exempt.budget_free()
