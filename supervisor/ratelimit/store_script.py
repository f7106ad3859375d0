"""What the scripts of the shared store are told, and what their answers mean. Pure: texts of integers in and out.

The scripts' time is Redis's clock, which counts microseconds; ours are the limits of `gcra`, in nanoseconds. Every window
is a whole number of microseconds and so is every time, so each TAT is a multiple of 1000 ticks of 1/quota ns: nothing is
lost by keeping it in ticks of 1/quota us. Lua's numbers are doubles, and a TAT in ticks would pass 2^53 at a quota of
five, so it travels as a pair, whole us and the part in 1/quota us. What must be multiplied or divided is done here,
where integers have no end; Lua adds and compares. A decision is therefore the one that `Limiter` takes when it is told
Redis's time, to the microsecond, with three exceptions: an account belongs to a client in a pool (who changes the pool
finds the old account when coming back), no debt reaches further than the year 2112, and where the limits themselves
have changed, what was used is carried over to the microsecond only.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from supervisor.ratelimit import gcra
from supervisor.ratelimit.account import Account
from supervisor.ratelimit.limiter import CROWDED_WAIT_NS, Refused
from supervisor.ratelimit.pools import Pool

US_NS = 1000
MAX_QUOTA = 10**9  # and the configuration allows no more; a sum of two parts stays far below 2^53
FARTHEST_US = 2**50  # 35 years: what one settlement can add; with a TAT below 2^52 the sum is below 2^53
LONGEST_NAME = 64  # of a client, as part of a key; longer ones are hashed
PROBE_KEY = "llmsup:{probe}:lease"  # of no account: written to see whether Redis takes anything
NAMES = ("decide", "finish", "renew")


def source(name: str) -> str:
    """The script of that name, as Redis gets it."""
    folder = resources.files("supervisor.ratelimit").joinpath("lua")
    return "".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in ("common", name))


@dataclass(frozen=True, slots=True)
class Place:
    """Where one account is kept. Its pool and what of `decide`'s words never changes come with it."""

    pool: Pool
    tats: str
    leases: str


def check(pool: Pool) -> None:
    """ValueError if its limits cannot be kept exactly."""
    for limit in pool.limits:
        if limit.rate.window_ns % US_NS or not 1 <= limit.rate.quota <= MAX_QUOTA:
            raise ValueError(f"pool {pool.name}: {limit.name} cannot be kept in Redis")


def own_place(pool: Pool, client: str) -> Place:
    """Of the client's own account.

    The part of a key in braces decides about its place in a cluster. It is the pool, because one script needs the
    client's account and what all of its pool share at the same place.
    """
    name = client if len(client) <= LONGEST_NAME else _digest(client, 16)
    kind = "c" if name is client else "h"  # nobody can choose a name that looks like another's digest
    prefix = f"llmsup:{{{pool.name}}}"
    return Place(pool, f"{prefix}:tat:{kind}:{name}", f"{prefix}:lease:{kind}:{name}")


def shared_place(pool: Pool) -> Place:
    """Of the account that its whole pool shares."""
    prefix = f"llmsup:{{{pool.name}}}"
    return Place(pool, f"{prefix}:tat:all", f"{prefix}:lease:all")


def _digest(text: str, size: int) -> str:
    return hashlib.blake2s(text.encode("utf-8", "surrogateescape"), digest_size=size).hexdigest()


def keys(places: Sequence[Place]) -> list[str]:
    return [key for place in places for key in (place.tats, place.leases)]


def charge(pool: Pool, tokens: int) -> str:
    """The words of `decide` for one account of this pool."""
    words = [str(-1 if pool.concurrent is None else pool.concurrent)]
    for limit, (quota, window_ns, of_tokens) in zip(pool.limits, pool.terms, strict=True):
        window_us = window_ns // US_NS
        us, part = divmod((min(tokens, quota) if of_tokens else 1) * window_us, quota)
        words.append(f"{limit.name} {quota} {window_us} {us} {part}")
    return " ".join(words)


def settlement(pool: Pool, reserved: int, used: int | None) -> str:
    """The words of `finish`; ``used`` None: the estimate stays."""
    return _corrections(
        pool,
        [
            used - min(reserved, quota) if of_tokens and used is not None else 0
            for quota, _, of_tokens in pool.terms
        ],
    )


def refund(pool: Pool, reserved: int) -> str:
    """The words of `finish` for a request that is to be as if it had never been."""
    return _corrections(
        pool, [-min(reserved, quota) if of_tokens else -1 for quota, _, of_tokens in pool.terms]
    )


def _corrections(pool: Pool, quantities: Sequence[int]) -> str:
    words = []
    for limit, quantity in zip(pool.limits, quantities, strict=True):
        quota, window_us = limit.rate.quota, limit.rate.window_ns // US_NS
        us, part = divmod(quantity * window_us, quota)
        if us >= FARTHEST_US:
            us, part = FARTHEST_US, 0
        words.append(f"{limit.name} {quota} {window_us} {us} {part}")
    return " ".join(words)


@dataclass(slots=True)
class Decided:
    """``accounts``: as they are now, in the order in which they were asked for; by the clock that says ``now_ns``."""

    admitted: bool
    now_ns: int
    accounts: tuple[Account, ...]

    def move(self, now_ns: int) -> None:
        """To another clock, which says ``now_ns``."""
        later_ns = now_ns - self.now_ns
        for account in self.accounts:
            terms = account.pool.terms
            account.tats = [
                max(gcra.FULL, tat + later_ns * quota)
                for tat, (quota, _, _) in zip(account.tats, terms, strict=True)
            ]
        self.now_ns = now_ns


def decided(answer: bytes, pools: Sequence[Pool]) -> Decided:
    """What `decide` has answered, in Redis's time. ValueError if that is no such answer."""
    admitted, now_us, *rest = (int(word) for word in answer.split())
    accounts = []
    for pool in pools:
        size = 1 + 2 * len(pool.terms)
        if len(rest) < size:
            raise ValueError("half an answer")
        accounts.append(_account(pool, *rest[:size]))
        del rest[:size]
    return Decided(admitted == 1, now_us * US_NS, tuple(accounts))


def _account(pool: Pool, in_flight: int, *pairs: int) -> Account:
    account = Account(pool)
    account.in_flight = in_flight
    account.tats = [
        (us * quota + part) * US_NS
        for us, part, (quota, _, _) in zip(pairs[::2], pairs[1::2], pool.terms, strict=True)
    ]
    return account


def refusal(accounts: Sequence[Account], tokens: int, now_ns: int) -> Refused | None:
    """Why such a request is refused with these accounts, in the words of `Limiter.admit`; None: it is not."""
    waits = [gcra.after(one.pool.terms, one.tats, tokens, now_ns) for one in accounts]
    longest = max(
        range(len(accounts)), key=lambda index: waits[index][1]
    )  # the own one, where both are equal
    _, wait_ns, limit = waits[longest]
    if wait_ns:
        return Refused(wait_ns, accounts[longest].pool.limits[limit].name, shared=longest > 0)
    for index, one in enumerate(accounts):
        if one.crowded:
            return Refused(CROWDED_WAIT_NS, "concurrent", shared=index > 0)
    return None
