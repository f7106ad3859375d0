"""Admits requests within the limits of their clients' pools, or refuses them and charges nothing.

Two accounts may be asked for one request: the client's own, and one that its whole pool shares (`shared`). Both
are checked before either is charged. Pure: the time is an argument, in nanoseconds of any monotonic clock.

Memory is bounded: accounts idle for longer than ``max_age_ns`` that owe nothing are forgotten, a slice at a time,
and above ``max_accounts`` the one that was seen longest ago goes, whatever it owes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.ratelimit.account import Account
from supervisor.ratelimit.gcra import SECOND_NS, after
from supervisor.ratelimit.pools import Limit, Pool

MAX_ACCOUNTS = 131_072  # about 40 MB
SLICE = 5000  # accounts looked at in one call: under 10 ms
CROWDED_WAIT_NS = SECOND_NS  # nobody knows when a request of the client's own ends


@dataclass(frozen=True, slots=True)
class Refused:
    """``wait_ns``: until the same request would be within its rates; ``limit``: the one to wait longest for,
    or ``concurrent``; ``shared``: it is the pool's, not the client's own.
    """

    wait_ns: int
    limit: str
    shared: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How one limit stands. ``reset_ns``: until it is whole again, or, with nothing remaining, until one unit is there."""

    limit: Limit
    remaining: int
    reset_ns: int


class Grant:
    """One admitted request. Exactly one of `settle` and `refund` ends it; what comes after that has no effect."""

    __slots__ = ("_accounts", "_tokens", "over")

    def __init__(self, accounts: tuple[Account, ...], tokens: int) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self.over = False

    def __repr__(self) -> str:
        return f"<Grant of {self._tokens} tokens{', over' if self.over else ''}>"

    def settle(self, tokens: int | None, now_ns: int) -> None:
        """Served. ``tokens``: what it really took; None: nobody knows, and the estimate stays."""
        if self._end() and tokens is not None:
            for account in self._accounts:
                account.settle(self._tokens, tokens, now_ns)

    def refund(self, now_ns: int) -> None:
        """It died unserved."""
        if self._end():
            for account in self._accounts:
                account.refund(self._tokens, now_ns)

    def _end(self) -> bool:
        if self.over:
            return False
        self.over = True
        for account in self._accounts:
            account.in_flight -= 1
        return True

    def standings(self, now_ns: int) -> list[Standing]:
        return [standing for account in self._accounts for standing in standings(account, now_ns)]


def standings(account: Account, now_ns: int) -> list[Standing]:
    """Of each of its limits, in their order."""
    found = []
    for limit, tat in zip(account.pool.limits, account.tats, strict=True):
        rate = limit.rate
        remaining = rate.remaining(tat, now_ns)
        reset_ns = rate.full_in_ns(tat, now_ns) if remaining else rate.wait_ns(tat, 1, now_ns)
        found.append(Standing(limit, remaining, reset_ns))
    return found


class Limiter:
    """``pools``: by name; ``shared``: what all of a pool have together, by the pool's name."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        *,
        default: str = "anonymous",
        shared: Mapping[str, Pool] | None = None,
        max_age_ns: int = 600 * SECOND_NS,
        interval_ns: int = 300 * SECOND_NS,
        max_accounts: int = MAX_ACCOUNTS,
    ) -> None:
        self._pools = dict(pools)
        self._default = self._pools[default]
        self._shared = {name: Account(pool) for name, pool in (shared or {}).items()}
        self._accounts: OrderedDict[str, Account] = OrderedDict()  # the one seen longest ago first
        self._max_age_ns = max_age_ns
        self._interval_ns = interval_ns
        self._max_accounts = max_accounts
        self._next_cleanup_ns = 0
        self._most = 0  # accounts since the table was made

    def __repr__(self) -> str:
        return f"<Limiter: {len(self._accounts)} clients in {len(self._pools)} pools>"

    def __len__(self) -> int:
        return len(self._accounts)

    def admit(self, client: str, pool: str, tokens: int, now_ns: int) -> Grant | Refused:
        """Charge one request of ``client`` and about ``tokens`` tokens, or say why not.

        A request of more tokens than a bucket holds is charged the whole bucket now and the rest when it is
        settled, for nobody could wait for more than a full one.
        """
        limits = self._pools.get(pool, self._default)
        own = known = self._accounts.get(client)
        if own is None or own.pool is not limits:
            own = Account(limits)  # kept only if it is admitted
        tats, wait_ns, index = after(limits.terms, own.tats, tokens, now_ns)
        crowded = limits.concurrent is not None and own.in_flight >= limits.concurrent
        shared = self._shared.get(limits.name)
        if shared is None:
            if wait_ns or crowded:
                return _refused(own, wait_ns, index, shared=False)
            accounts: tuple[Account, ...] = (own,)
        else:
            all_tats, all_wait_ns, all_index = after(shared.pool.terms, shared.tats, tokens, now_ns)
            if all_wait_ns > wait_ns:
                return _refused(shared, all_wait_ns, all_index, shared=True)
            if wait_ns or crowded:
                return _refused(own, wait_ns, index, shared=False)
            if shared.crowded:
                return _refused(shared, 0, 0, shared=True)
            shared.tats = all_tats
            shared.in_flight += 1
            accounts = (own, shared)
        own.tats = tats
        own.in_flight += 1
        own.seen_ns = now_ns
        if own is not known:
            self._accounts[client] = own
            self._bound()
        self._accounts.move_to_end(client)
        return Grant(accounts, tokens)

    def standings(self, client: str, pool: str, now_ns: int) -> list[Standing]:
        """For a refusal, which has no grant to ask."""
        own = self._account(client, pool)
        shared = self._shared.get(own.pool.name)
        return standings(own, now_ns) + (standings(shared, now_ns) if shared is not None else [])

    def _account(self, client: str, pool: str) -> Account:
        """The client's; a fresh one, which is kept only if it is admitted, where it has none in this pool."""
        limits = self._pools.get(pool, self._default)
        account = self._accounts.get(client)
        return account if account is not None and account.pool is limits else Account(limits)

    def _bound(self) -> None:
        if len(self._accounts) > self._max_accounts:
            self._accounts.popitem(last=False)
        self._most = max(self._most, len(self._accounts))

    def cleanup(self, now_ns: int) -> int:
        """Forget the idle if it is time to; how many. To be called about once a second: it does a slice at a time."""
        if now_ns < self._next_cleanup_ns:
            return 0
        forgotten = 0
        for _ in range(SLICE):
            if not self._accounts:
                break
            client, account = next(iter(self._accounts.items()))
            if now_ns - account.seen_ns <= self._max_age_ns:
                break
            if account.blank(now_ns):
                del self._accounts[client]
                forgotten += 1
            else:  # looked at again when it has been idle for as long once more
                account.seen_ns = now_ns
                self._accounts.move_to_end(client)
        else:
            return forgotten
        self._next_cleanup_ns = now_ns + self._interval_ns
        self._shrink()
        return forgotten

    def _shrink(self) -> None:
        """A table that was large stays so until it is copied."""
        if len(self._accounts) < self._most // 4:
            self._accounts = self._accounts.copy()
            self._most = len(self._accounts)


def _refused(account: Account, wait_ns: int, index: int, *, shared: bool) -> Refused:
    if not wait_ns:
        return Refused(CROWDED_WAIT_NS, "concurrent", shared)
    return Refused(wait_ns, account.pool.limits[index].name, shared)
