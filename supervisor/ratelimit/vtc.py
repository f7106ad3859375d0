"""Virtual token counters: one line of clients, the one that has had the least goes first.

After "Fairness in Serving Large Language Models" (VTC, arXiv 2401.00588). A client's counter is the weighted tokens it
was served, divided by its weight. Where two clients have something waiting all the time, their counters differ by U at
most, and the service they get in any interval by 2 U, where U is the most that one client's requests in service at once
can cost: whoever is dispatched had the lowest counter then, and goes ahead of the others by no more than that.

The lift. A client that had nothing waiting comes in at the *level* or at its own counter, whichever is higher: idleness
saves up nothing, and nobody has to make up for the past. The level is the lowest counter of those that wait; it
never goes back; where nobody waits it is the counter of the last one dispatched, or of the last one that left. Two details
differ from the paper:

- The lift is made when the next turn is decided, not at arrival. Between turns a counter holds an estimate that the
  end of the request corrects; a newcomer lifted to that would wait until the others really got there.
- A client that waits but may not go (its prompt is too large just now) keeps its low counter, but does not hold
  down the level while others are dispatched past it: newcomers would get all that it has missed.

What is forgotten: clients that are gone and not above the level, for the lift would bring them there anyway. Of
those above it `GONE_MAX` are remembered; then the level rises to the lowest of them. That bounds memory, and it
ends what the paper leaves open: an endless row of clients that are all new, each at the level, never lets an older one
go again that is a little above it.

Counters are integers, in units of 1/`UNIT` of a token: what is charged and refunded cancels out to the last unit,
and no number of months makes them less exact, as it would a float.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

UNIT = 1 << 20
TURNS_APART = 1 << 32  # room for those that come between two dispatches
GONE_MAX = 100  # as many as wait by default; see above why it need not be many
STALE_MAX = (
    64  # entries of the heap that are out of date, beyond one for each client, before it is built anew
)


class Account(Generic[T]):
    """One client in one line.

    ``held``: how many of its requests are in service; ``floor``: the counter that no refund goes below; ``turn``:
    when it was dispatched last, for ties; ``entry``: where the heap has it, None if it is not in it.
    """

    __slots__ = ("counter", "entry", "floor", "gone", "held", "name", "turn", "waiting", "weight")

    def __init__(self, name: str, counter: int, turn: int) -> None:
        self.name = name
        self.weight = 1.0
        self.counter = self.floor = counter
        self.turn = turn
        self.waiting: OrderedDict[T, None] = OrderedDict()
        self.held = 0
        self.entry: Entry[T] | None = None
        self.gone = False  # the heap of those that are gone has it

    def __repr__(self) -> str:
        tokens = self.counter / UNIT
        return (
            f"<Account {self.name}: {tokens:.1f} tokens, {len(self.waiting)} waiting, {self.held} in service>"
        )


# Lowest counter first; of equals, the one that was dispatched (or, if never, came) longest ago, but a newcomer before
# whoever was dispatched last: they have just had their turn. An entry that is lower
# than its account is now is put right when it gets to the top; one that is higher is replaced at once.
Entry: TypeAlias = tuple[int, int, Account[T]]


class Line(Generic[T]):
    """``waiting``: how many requests wait, of ``clients``. ``level``: where a newcomer comes in."""

    __slots__ = (
        "_coming",
        "_dispatches",
        "_gone",
        "_heap",
        "_newcomers",
        "accounts",
        "clients",
        "level",
        "waiting",
    )

    def __init__(self) -> None:
        self.level = 0
        self.waiting = self.clients = 0
        self.accounts: dict[str, Account[T]] = {}
        self._heap: list[Entry[T]] = []
        self._coming: dict[Account[T], None] = {}  # they wait, and are lifted at the next turn
        self._gone: list[Entry[T]] = []
        self._dispatches = 0
        self._newcomers = 0  # since the latest dispatch

    def __repr__(self) -> str:
        return (
            f"<Line at {self.level / UNIT:.1f} tokens: {self.waiting} waiting, {len(self.accounts)} clients>"
        )

    def account(self, client: str, weight: float) -> Account[T]:
        """The account of this client, made if it is new.

        Raises:
            ValueError: the weight is not positive.
        """
        if not weight > 0:
            raise ValueError(f"weight must be positive, not {weight}")
        account = self.accounts.get(client)
        if account is None:
            self._newcomers += 1
            turn = self._dispatches * TURNS_APART + self._newcomers
            account = self.accounts[client] = Account(client, self.level, turn)
        account.weight = weight
        return account

    # ---- what waits

    def add(self, account: Account[T], item: T) -> None:
        if not account.waiting:
            self._coming[account] = None
        self.clients += not account.waiting
        account.waiting[item] = None
        self.waiting += 1

    def discard(self, account: Account[T], item: T) -> None:
        """It waits no more. To be followed by `start` or `leave`."""
        del account.waiting[item]
        self.waiting -= 1
        if not account.waiting:
            self.clients -= 1
            account.entry = None
            self._coming.pop(account, None)
            if not self.waiting:
                self._heap.clear()

    def in_turn(self) -> Iterator[T]:
        """All that wait, in the order in which they should go. Finding the first costs O(log clients), amortised.

        The heap is walked, not emptied: from each entry to the two below it, lowest first.
        """
        if self._coming:
            self._seat()
        top = self._top()
        if top is None:
            return
        heap, ahead = self._heap, [(top, 0)]
        while ahead:
            entry, at = heappop(ahead)
            counter, turn, account = entry
            if at < 0 or entry is account.entry:
                if counter == account.counter and turn == account.turn:
                    yield from account.waiting
                else:
                    heappush(ahead, ((account.counter, account.turn, account), -1))
            if at >= 0:
                for below in range(2 * at + 1, min(2 * at + 3, len(heap))):
                    heappush(ahead, (heap[below], below))

    def _seat(self) -> None:
        """Those that came since the last turn are lifted and take their places."""
        top = self._top() if self._heap else None
        if top is not None:
            self._raise(top[0])
        for account in self._coming:
            self._lift(account)
            self._file(account)
        self._coming.clear()

    def _lift(self, account: Account[T]) -> None:
        if account.floor < self.level:
            account.floor = self.level
            account.counter = max(account.counter, self.level)

    def _file(self, account: Account[T]) -> None:
        account.entry = (account.counter, account.turn, account)
        if len(self._heap) > 2 * len(self.accounts) + STALE_MAX:
            self._heap = [one.entry for one in self.accounts.values() if one.entry is not None]
            heapify(self._heap)
        else:
            heappush(self._heap, account.entry)

    def _top(self) -> Entry[T] | None:
        """The first in line, with what is out of date above it put right."""
        heap = self._heap
        while heap:
            entry = heap[0]
            counter, turn, account = entry
            if entry is not account.entry:
                heappop(heap)
            elif counter != account.counter or turn != account.turn:
                account.entry = (account.counter, account.turn, account)
                heapreplace(heap, account.entry)
            else:
                return entry
        return None

    # ---- what is served

    def start(self, account: Account[T]) -> None:
        """One of its requests goes."""
        if not account.waiting and account.counter < self.level:
            self._lift(account)
        if not account.held:
            account.floor = account.counter
        account.held += 1
        self._dispatches += 1
        self._newcomers = 0
        account.turn = (self._dispatches + 1) * TURNS_APART - 1  # behind those that came since the one before
        self._raise(account.counter)

    def charge(self, account: Account[T], tokens: float) -> None:
        """A refund goes no further than to the counter before what is in service, or to the level it came in at."""
        if tokens >= 0:
            account.counter += round(tokens * UNIT / account.weight)
            return
        account.counter = max(account.counter + round(tokens * UNIT / account.weight), account.floor)
        if account.entry is not None and account.counter < account.entry[0]:
            self._file(account)

    def end(self, account: Account[T]) -> None:
        account.held -= 1
        self.leave(account)

    # ---- who is remembered

    def leave(self, account: Account[T]) -> None:
        """It may be gone: remembered if it has had more than a newcomer comes in with."""
        if account.waiting or account.held:
            return
        if not self.waiting:
            self._raise(account.counter)
        if account.counter <= self.level:
            # Its entry among the gone, if any, stays until the level passes it; that cannot be far.
            self.accounts.pop(account.name, None)
        elif not account.gone:
            account.gone = True
            heappush(self._gone, (account.counter, account.turn, account))
            if len(self._gone) > GONE_MAX:
                self._forget()

    def _raise(self, counter: int) -> None:
        if counter > self.level:
            self.level = counter
            if self._gone and self._gone[0][0] <= counter:
                self._forget()

    def _forget(self) -> None:
        """Those that are not above the level; with more than enough above it, it rises to the lowest."""
        gone = self._gone
        while gone and (gone[0][0] <= self.level or len(gone) > GONE_MAX):
            counter, _, account = heappop(gone)
            account.gone = False
            if account.waiting or account.held or self.accounts.get(account.name) is not account:
                continue
            if account.counter > max(counter, self.level):  # charged since
                account.gone = True
                heappush(gone, (account.counter, account.turn, account))
                continue
            self.level = max(self.level, account.counter)
            del self.accounts[account.name]
