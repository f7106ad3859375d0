"""How much memory the bodies of all requests may take together.

Only large bodies count (the small ones are bounded by the number of connections). A sender that
exceeds the budget is not read from until others have given theirs back. Complete bodies do so by
themselves: they are answered or refused. Half-received ones could wait for each other for ever, so
while there are no others one sender at a time is exempt. Who holds much and sends little while others wait is
refused (`pace`).
"""

from collections import deque
from typing import Protocol

from supervisor.types import KIB, MIB

# One and a half of the largest bodies: what strangers send must not make the daemon large (idle it has some 65 MiB), and who waits
# for this waits for the slots of the model anyway.
BUDGET_BYTES = 48 * MIB
SHARE = 2  # of it one client may have the half, and beyond that one body at a time
COUNTED_FROM_BYTES = 64 * KIB


class Sender(Protocol):
    """``owner``: whose body it sends; stays the same from its first byte here to its last."""

    owner: str

    def wait_for_budget(self) -> None:
        """Stop reading."""

    def budget_free(self) -> None:
        """Read on."""


class _Share:
    """What one client has of the budget."""

    __slots__ = ("complete", "exempt", "used")

    def __init__(self) -> None:
        self.used = self.complete = 0
        self.exempt: Sender | None = None


class BodyBudget:
    """Invariant: while anybody waits, there is a complete body or an exempt sender, so the wait ends.

    Of one client the same holds within its share: what it has beyond that comes one body at a time, so that no one client's
    bodies keep everybody else's out.
    """

    def __init__(self, limit_bytes: int = BUDGET_BYTES) -> None:
        self._limit = limit_bytes
        self._share_limit = limit_bytes // SHARE
        self._used = 0
        self._complete = 0  # of these bytes, those of complete bodies
        self._exempt: Sender | None = None
        self._shares: dict[str, _Share] = {}
        self._waiting: deque[Sender] = deque()

    def __repr__(self) -> str:
        return f"<BodyBudget {self._used} of {self._limit} bytes, {len(self._waiting)} waiting>"

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for others."""
        return bool(self._waiting)

    def take(self, sender: Sender, size: int) -> None:
        """``size`` more bytes are held; over the limit the sender is told to wait."""
        share = self._shares.get(sender.owner)
        if share is None:
            share = self._shares[sender.owner] = _Share()
        self._used += size
        share.used += size
        if self._may(sender) or sender in self._waiting:
            return
        sender.wait_for_budget()
        self._waiting.append(sender)
        self._wake()

    def complete(self, sender: Sender, size: int) -> None:
        """Its body of ``size`` bytes has been received whole; `give` will follow."""
        self._complete += size
        self._shares[sender.owner].complete += size
        self._leave(sender)

    def drop(self, sender: Sender, size: int) -> None:
        """It has given up with ``size`` bytes of a body."""
        self._used -= size
        self._less(sender.owner, size)
        self._leave(sender)

    def give(self, owner: str, size: int) -> None:
        """``size`` bytes of complete bodies of ``owner`` are held no longer."""
        self._used -= size
        self._complete -= size
        self._shares[owner].complete -= size
        self._less(owner, size)
        self._wake()

    def _less(self, owner: str, size: int) -> None:
        share = self._shares.get(owner)
        if share is None:
            return  # it had given up before it had anything
        share.used -= size
        if not share.used:
            del self._shares[owner]

    def _may(self, sender: Sender) -> bool:
        """Whether it may send on."""
        if sender is self._exempt:
            return True
        share = self._shares[sender.owner]
        return self._used <= self._limit and (share.used <= self._share_limit or sender is share.exempt)

    def _leave(self, sender: Sender) -> None:
        if sender in self._waiting:
            self._waiting.remove(sender)
            sender.budget_free()
        if sender is self._exempt:
            self._exempt = None
        share = self._shares.get(sender.owner)
        if share is not None and sender is share.exempt:
            share.exempt = None
        self._wake()

    def _wake(self) -> None:
        """Exempt whom nobody else's end would let on, and let on who may."""
        for sender in tuple(self._waiting):
            share = self._shares[sender.owner]
            if share.exempt is None and not share.complete:
                share.exempt = sender
            if self._used > self._limit and self._exempt is None and not self._complete:
                self._exempt = sender
            if self._may(sender):
                self._waiting.remove(sender)
                sender.budget_free()
