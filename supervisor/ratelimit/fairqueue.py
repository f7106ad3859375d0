"""Whose turn is it? What waits for one model, in the order in which it should go.

First what was put first: requests that were served already and lost their server. Then interactive requests, then batch
ones; but of any `BATCH_EVERY` in a row that are taken from the queue while a batch request waits, at least one is a batch
request, those put first aside: after `BATCH_EVERY - 1` interactive ones the batch requests stand before them.
So the batch request that is next in its class goes within `BATCH_EVERY`, if it may go at all. Within a class the
client goes first that was served least (`supervisor.ratelimit.vtc`), and of one client's requests the oldest. The
classes are counted apart: what somebody gets at night in bulk does not delay what they ask by hand.

What a request costs is charged to its client as it becomes known: at dispatch the prompt, then the answer as it
flows, at the end the difference to what it really was. An estimate of the whole answer may be charged at dispatch
too, but a high one unsettles the order for as long as it stands.

For each request, in this order: `add` and `take`, or `dispatched` if it need not wait; any number of `charge`; `ended`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from supervisor.ratelimit.vtc import Account, Line

T = TypeVar("T")

# What a token weighs: w_p and w_q of arXiv 2401.00588. A prompt is read many tokens at once, an answer written one by one.
PROMPT_WEIGHT = 1
COMPLETION_WEIGHT = 2

BATCH_EVERY = 8


def cost(prompt_tokens: float, completion_tokens: float) -> float:
    """In weighted tokens, as `FairQueue.charge` takes them."""
    return PROMPT_WEIGHT * prompt_tokens + COMPLETION_WEIGHT * completion_tokens


@dataclass(frozen=True, slots=True)
class Crowd(Generic[T]):
    """Of the client that has most waiting: how many, and the newest. None: nobody waits."""

    count: int
    newest: T | None


class FairQueue(Generic[T]):
    """Items are told apart by identity (or whatever their hash says); each waits once at most."""

    __slots__ = ("_batch", "_first", "_interactive", "_passed", "_places")

    def __init__(self) -> None:
        self._interactive: Line[T] = Line()
        self._batch: Line[T] = Line()
        self._places: dict[T, tuple[Line[T], Account[T]]] = {}
        self._first: OrderedDict[T, tuple[Line[T], Account[T]]] = OrderedDict()
        self._passed = 0  # interactive requests that went while a batch one waited, since one of those went

    def __repr__(self) -> str:
        first, interactive, batch = len(self._first), self._interactive.waiting, self._batch.waiting
        return f"<FairQueue: {first} first, {interactive} interactive, {batch} batch>"

    def __len__(self) -> int:
        return len(self._places) + len(self._first)

    def __bool__(self) -> bool:
        return bool(self._places or self._first)

    def __contains__(self, item: object) -> bool:
        return item in self._places or item in self._first

    def __iter__(self) -> Iterator[T]:
        """All that wait, in no particular order."""
        yield from self._first
        yield from self._places

    # ---- who waits

    @property
    def clients(self) -> int:
        """How many clients have something waiting; one with both classes counts twice."""
        return self._interactive.clients + self._batch.clients

    def waiting_of(self, client: str) -> int:
        accounts = (line.accounts.get(client) for line in (self._interactive, self._batch))
        return sum(len(account.waiting) for account in accounts if account is not None)

    def longest(self) -> Crowd[T]:
        """Looks at all clients: for the rare moment in which the queue is full. Those put first are left alone."""
        accounts = [*self._interactive.accounts.values(), *self._batch.accounts.values()]
        fullest = max(accounts, key=lambda account: len(account.waiting), default=None)
        if fullest is None or not fullest.waiting:
            return Crowd(0, None)
        return Crowd(len(fullest.waiting), next(reversed(fullest.waiting)))

    # ---- what waits

    def add(self, item: T, client: str, *, weight: float = 1.0, batch: bool = False) -> None:
        """``weight``: the client's share; with 3 it gets three times as much as with 1.

        Raises:
            ValueError: it waits already, or the weight is not positive.
        """
        if item in self._places or item in self._first:
            raise ValueError(f"it waits already: {item!r}")
        line = self._batch if batch else self._interactive
        account = line.account(client, weight)
        self._places[item] = line, account
        line.add(account, item)

    def add_first(self, item: T, client: str, *, weight: float = 1.0, batch: bool = False) -> None:
        """Before all others, the last one put here before the rest. It still counts as in service.

        Raises:
            ValueError: as for `add`.
        """
        if item in self._places or item in self._first:
            raise ValueError(f"it waits already: {item!r}")
        line = self._batch if batch else self._interactive
        account = line.account(client, weight)
        account.held += 1
        self._first[item] = line, account
        self._first.move_to_end(item, last=False)

    def remove(self, item: T) -> bool:
        """It waits no more and is not served. False: it was not here."""
        place = self._places.pop(item, None)
        if place is not None:
            line, account = place
            line.discard(account, item)
            line.leave(account)
            return True
        place = self._first.pop(item, None)
        if place is not None:
            line, account = place
            line.end(account)
            return True
        return False

    def clear(self) -> list[T]:
        """Remove all; returns them, those put first before the others, else the oldest first."""
        items = list(self)
        for item in items:
            self.remove(item)
        return items

    def in_turn(self) -> Iterator[T]:
        """Who should go, best first; found one by one, so that to look at the first alone is cheap.

        Take or remove one and the iterator is spent: ask again.
        """
        due = self._passed >= BATCH_EVERY - 1
        before, after = (self._batch, self._interactive) if due else (self._interactive, self._batch)
        if self._first:
            yield from self._first
        if before.waiting:
            yield from before.in_turn()
        if after.waiting:
            yield from after.in_turn()

    # ---- what is served

    def take(self, item: T) -> None:
        """It goes now: it waits no more, and its client has one more in service.

        Raises:
            KeyError: it was not here.
        """
        if self._first and self._first.pop(item, None) is not None:
            return  # counted as in service all along
        line, account = self._places.pop(item)
        line.discard(account, item)
        line.start(account)
        if line is self._batch:
            self._passed = 0
        elif self._batch.waiting:
            self._passed += 1

    def dispatched(self, client: str, *, weight: float = 1.0, batch: bool = False) -> None:
        """One that never waited goes now."""
        line = self._batch if batch else self._interactive
        line.start(line.account(client, weight))

    def charge(self, client: str, tokens: float, *, batch: bool = False) -> None:
        """Weighted tokens of service (`cost`), or of a correction: negative ones are given back.

        A client that has nothing in service may be forgotten already; then this does nothing.
        """
        line = self._batch if batch else self._interactive
        account = line.accounts.get(client)
        if account is not None:
            line.charge(account, tokens)

    def ended(self, client: str, *, batch: bool = False) -> None:
        """A request that went (`take`, `dispatched`) is over, well or not, and what it cost is charged.

        Raises:
            KeyError: none was in service.
        """
        line = self._batch if batch else self._interactive
        line.end(line.accounts[client])
