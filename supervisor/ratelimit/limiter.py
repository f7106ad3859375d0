"""Admits requests within the limits of their clients' pools, or refuses them and charges nothing.

Two accounts may be asked for one request: the client's own, and one that its whole pool shares (`shared`). Both
are checked before either is charged. Pure: the time is an argument, in nanoseconds of any monotonic clock.

Memory is bounded: accounts idle for longer than ``max_age_ns`` that owe nothing are forgotten, a slice at a time,
and above ``max_accounts`` the one that was seen longest ago (to `ORDER_NS`) goes, whatever it owes.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.ratelimit.account import Account
from supervisor.ratelimit.gcra import SECOND_NS, after, charged
from supervisor.ratelimit.pools import Limit, Pool

MAX_ACCOUNTS = 65_536  # about 25 MB, of the longest names that proxies can give 50
SLICE = 5000  # accounts looked at in one call: under 10 ms
ORDER_NS = 30 * SECOND_NS  # who is seen again sooner keeps the place in the order: changing it costs
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


class Rules:
    """What a client of one pool is held to: the pool's limits, and the account that all of the pool share."""

    __slots__ = ("free", "of_tokens", "pool", "shared", "shared_pool")

    def __init__(self, pool: Pool, shared: Account | None) -> None:
        self.pool = pool
        self.shared = shared
        self.shared_pool = shared.pool if shared is not None else pool
        self.of_tokens = pool.of_tokens or self.shared_pool.of_tokens
        self.free = shared is None and not pool.limits and pool.concurrent is None

    def __repr__(self) -> str:
        return f"<Rules of {self.pool.name}{', shared' if self.shared else ''}>"


class Grant:
    """One admitted request. Exactly one of `settle` and `refund` ends it; what comes after that has no effect."""

    __slots__ = ("_rules", "_tokens", "over", "own")

    def __init__(self, own: Account, rules: Rules, tokens: int) -> None:
        self.own = own
        self._rules = rules
        self._tokens = tokens
        self.over = False

    def __repr__(self) -> str:
        return f"<Grant of {self._tokens} tokens{', over' if self.over else ''}>"

    def settle(self, tokens: int | None, now_ns: int) -> None:
        """Served. ``tokens``: what it really took; None: nobody knows, and the estimate stays."""
        if self.over:
            return
        self.over = True
        rules, own = self._rules, self.own
        own.in_flight -= 1
        shared = rules.shared
        if shared is not None:
            shared.in_flight -= 1
        if tokens is not None and rules.of_tokens:
            own.settle(rules.pool, self._tokens, tokens, now_ns)
            if shared is not None:
                shared.settle(rules.shared_pool, self._tokens, tokens, now_ns)

    def refund(self, now_ns: int) -> None:
        """It died unserved."""
        if self.over:
            return
        self.over = True
        rules = self._rules
        self.own.in_flight -= 1
        self.own.refund(rules.pool, self._tokens)
        if rules.shared is not None:
            rules.shared.in_flight -= 1
            rules.shared.refund(rules.shared_pool, self._tokens)

    def standings(self, now_ns: int) -> list[Standing]:
        return standings(self.own, now_ns) + _of_shared(self._rules, now_ns)


def standings(account: Account, now_ns: int) -> list[Standing]:
    """Of each of its limits, in their order."""
    found = []
    for limit, tat in zip(account.pool.limits, account.tats, strict=True):
        rate = limit.rate
        remaining = rate.remaining(tat, now_ns)
        reset_ns = rate.full_in_ns(tat, now_ns) if remaining else rate.wait_ns(tat, 1, now_ns)
        found.append(Standing(limit, remaining, reset_ns))
    return found


def _of_shared(rules: Rules, now_ns: int) -> list[Standing]:
    return standings(rules.shared, now_ns) if rules.shared is not None else []


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
        self._default_name = default
        self._shared: dict[str, Account] = {}
        self.configure(pools, shared)
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

    def configure(self, pools: Mapping[str, Pool], shared: Mapping[str, Pool] | None = None) -> None:
        """Other limits from now on. Raises KeyError, and changes nothing, where the default pool is missing.

        Each account goes on under them from its next request (`Account.carry`): not all at once, for there may be
        a hundred thousand. What is in flight keeps its place, and is settled or refunded as it was charged. Clients of
        a pool that is gone are of the default one then, and start anew.
        """
        self._default = pools[self._default_name]
        self._pools = dict(pools)
        self._shared_pools = dict(shared or {})
        self._shared = {name: account for name, account in self._shared.items() if name in self._shared_pools}
        self._rules: dict[str, Rules] = {}  # made when first asked for: the time is needed

    def admit(self, client: str, pool: str, tokens: int, now_ns: int) -> Grant | Refused:
        """Charge one request of ``client`` and about ``tokens`` tokens, or say why not.

        A request of more tokens than a bucket holds is charged the whole bucket now and the rest when it is
        settled, for nobody could wait for more than a full one.
        """
        rules = self._rules.get(pool) or self._rules_of(pool, now_ns)
        if rules.free:
            return FREE
        limits, shared = rules.pool, rules.shared
        own = self._accounts.get(client)
        if own is None or own.pool is not limits:
            own = _continued(own, limits, now_ns)
        tats = charged(limits.terms, own.tats, tokens, now_ns)
        if tats is None or own.in_flight >= limits.places:
            return _refused(own, shared, tokens, now_ns)
        if shared is not None:
            shared_tats = charged(rules.shared_pool.terms, shared.tats, tokens, now_ns)
            if shared_tats is None or shared.crowded:
                return _refused(own, shared, tokens, now_ns)
            shared.tats = shared_tats
            shared.in_flight += 1
        own.tats = tats
        own.in_flight += 1
        if now_ns - own.seen_ns > ORDER_NS:
            self._seen(client, own, now_ns)
        return Grant(own, rules, tokens)

    def refused(self, client: str, pool: str, now_ns: int) -> Refused | None:
        """Whether one more request would be over a rate, whatever it is. Nothing is charged."""
        rules = self._rules.get(pool) or self._rules_of(pool, now_ns)
        if rules.free:
            return None
        own, shared = self._accounts.get(client), rules.shared
        if own is None or own.pool is not rules.pool:
            own = _continued(own, rules.pool, now_ns)
        if charged(rules.pool.terms, own.tats, 0, now_ns) is not None and (
            shared is None or charged(rules.shared_pool.terms, shared.tats, 0, now_ns) is not None
        ):
            return None
        return _refused(own, shared, 0, now_ns)

    def standings(self, client: str, pool: str, now_ns: int) -> list[Standing]:
        """For a refusal, which has no grant to ask."""
        rules = self._rules.get(pool) or self._rules_of(pool, now_ns)
        own = self._accounts.get(client)
        if own is None or own.pool is not rules.pool:
            own = _continued(own, rules.pool, now_ns)
        return standings(own, now_ns) + _of_shared(rules, now_ns)

    def lately(self, count: int) -> list[tuple[str, str]]:
        """Who was seen last, and in which pool; newest first."""
        newest = itertools.islice(reversed(self._accounts.items()), count)
        return [(client, account.pool.name) for client, account in newest]

    def _rules_of(self, pool: str, now_ns: int) -> Rules:
        """Of an unknown pool those of the default one."""
        limits = self._pools.get(pool, self._default)
        name = limits.name
        if name not in self._rules:
            shared_pool = self._shared_pools.get(name)
            if shared_pool is not None:
                account = self._shared.setdefault(name, Account(shared_pool))
                account.carry(shared_pool, now_ns)
            self._rules[name] = Rules(limits, self._shared.get(name))
        return self._rules[name]

    def _seen(self, client: str, own: Account, now_ns: int) -> None:
        own.seen_ns = now_ns
        accounts = self._accounts
        accounts[client] = own  # perhaps for the first time, or in the place of one in another pool
        accounts.move_to_end(client)
        if len(accounts) > self._max_accounts:
            accounts.popitem(last=False)
        self._most = max(self._most, len(accounts))

    def cleanup(self, now_ns: int) -> int:
        """Forget the idle if it is time to; how many. To be called about once a second: it does a slice at a time."""
        if now_ns < self._next_cleanup_ns:
            return 0
        forgotten = 0
        for _ in range(SLICE):
            if not self._accounts:
                break
            client, account = next(iter(self._accounts.items()))
            if now_ns - account.seen_ns <= self._max_age_ns + ORDER_NS:
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


def _continued(account: Account | None, pool: Pool, now_ns: int) -> Account:
    """The client's account in ``pool``; a new one, which is kept only if it is admitted, where it had none there."""
    if account is None or account.pool.name != pool.name:
        return Account(pool)
    account.carry(pool, now_ns)
    return account


def _refused(own: Account, shared: Account | None, tokens: int, now_ns: int) -> Refused:
    _, wait_ns, index = after(own.pool.terms, own.tats, tokens, now_ns)
    if shared is not None:
        _, shared_wait_ns, shared_index = after(shared.pool.terms, shared.tats, tokens, now_ns)
        if shared_wait_ns > wait_ns:
            return Refused(shared_wait_ns, shared.pool.limits[shared_index].name, shared=True)
    if wait_ns:
        return Refused(wait_ns, own.pool.limits[index].name, shared=False)
    return Refused(CROWDED_WAIT_NS, "concurrent", shared=not own.crowded)


FREE = Grant(
    Account(Pool("free")), Rules(Pool("free"), None), 0
)  # of all without limits: nothing to give back
FREE.over = True
