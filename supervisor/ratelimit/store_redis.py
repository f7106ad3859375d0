"""Limits that several daemons have together: the decisions of `Limiter`, taken in a Redis.

Each decision is one call (`lua/decide.lua`) that checks and charges everything at once, by Redis's clock. What
corrects it later (settlements, refunds) is posted and done soon. A running request holds a lease, which its daemon
renews: the requests of a daemon that is gone stop counting when theirs end.

A request is never left without a verdict: while Redis is away, ``on_failure`` decides. What it admits then is charged
in this process at most. A call whose answer was lost is taken back later, if Redis has done it.
"""

import asyncio
import itertools
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from supervisor.clock import Clock
from supervisor.errors import ConfigError
from supervisor.ratelimit import store_script
from supervisor.ratelimit.account import Account
from supervisor.ratelimit.limiter import CROWDED_WAIT_NS, FREE, Grant, Limiter, Refused, Standing, standings
from supervisor.ratelimit.pools import Pool
from supervisor.ratelimit.store_line import Call, Line, Lost, State
from supervisor.ratelimit.store_refusals import Refusals
from supervisor.ratelimit.store_script import Place

DEADLINE_S = 0.25  # for an answer of Redis; later, it is away
LEASE_S = 30.0
RENEWALS = 3  # in the length of a lease: one may be late

OnFailure = Literal["local", "allow", "deny"]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody knows whether the request is within its limits, and `deny` is configured."""

    retry_after_s: float
    reason: str


class SharedGrant:
    """One admitted request, as `limiter.Grant` is. What ends it returns at once; Redis learns of it soon."""

    __slots__ = ("_accounts", "_limiter", "_tokens", "client", "lease", "over", "own", "places", "pool")

    def __init__(self, limiter: "SharedLimiter", asked: "_Asked", accounts: tuple[Account, ...]) -> None:
        """``accounts``: by our clock, the client's own first."""
        self._limiter = limiter
        self._accounts = accounts
        self._tokens = asked.tokens
        self.own = accounts[0]
        self.client = asked.client
        self.pool = asked.pool
        self.places = asked.places
        self.lease = asked.lease
        self.over = False

    def __repr__(self) -> str:
        return f"<SharedGrant of {self._tokens} tokens{', over' if self.over else ''}>"

    def settle(self, tokens: int | None, now_ns: int) -> None:
        """Served. ``tokens``: what it really took; None: nobody knows, and the estimate stays."""
        if self._end():
            if tokens is not None:
                for account in self._accounts:
                    account.settle(account.pool, self._tokens, tokens, now_ns)
            words = [store_script.settlement(place.pool, self._tokens, tokens) for place in self.places]
            self._limiter.finish(self, words)

    def refund(self, now_ns: int) -> None:
        """It died unserved."""
        if self._end():
            for account in self._accounts:
                account.refund(account.pool, self._tokens)
            self._limiter.finish(
                self, [store_script.refund(place.pool, self._tokens) for place in self.places]
            )

    def _end(self) -> bool:
        if self.over:
            return False
        self.over = True
        return True

    def standings(self, now_ns: int) -> list[Standing]:
        """As Redis knew them when it admitted this request, and what has become of it since."""
        return [one for account in self._accounts for one in standings(account, now_ns)]


Verdict = SharedGrant | Grant | Refused | Unavailable


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question to Redis. ``at_ns``: our time."""

    client: str
    pool: str
    tokens: int
    places: tuple[Place, ...]
    lease: str
    at_ns: int


class SharedLimiter:
    """``pools`` and ``shared`` as of `Limiter`; ``local`` decides meanwhile where ``on_failure`` says so.

    ``name``: of this daemon, for people who look into Redis. `keep` must run for it to do anything.
    ConfigError if redis-py is missing, or the limits are no limits that Redis can keep.
    """

    def __init__(
        self,
        url: str,
        pools: Mapping[str, Pool],
        *,
        shared: Mapping[str, Pool] | None,
        local: Limiter,
        on_failure: OnFailure,
        clock: Clock,
        name: str,
        default: str = "anonymous",
        deadline_s: float = DEADLINE_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._default_name = default
        self.configure(pools, shared)
        self._local = local
        self._on_failure = on_failure
        self._clock = clock
        self._deadline_s = deadline_s
        self._lease_s = lease_s
        self._leases = (f"{name}/{secrets.token_hex(6)}/{number}" for number in itertools.count(1))
        self._running: set[SharedGrant] = set()
        self._line = Line(url, clock=clock, deadline_s=deadline_s, on_connected=self._renew)

    def __repr__(self) -> str:
        return f"<SharedLimiter at {self._line.address}, {self._line.state}, {len(self._running)} running>"

    @property
    def status(self) -> dict[str, str | int | None]:
        """For people: no password is in it."""
        line = self._line
        return {
            "url": line.address,
            "state": str(line.state),
            "since": line.since.isoformat(timespec="seconds"),
            "reason": line.reason or None,
            "on_failure": self._on_failure,
            "leases": len(self._running),
            "unsent": line.posted,
            "dropped": line.dropped,
        }

    def configure(self, pools: Mapping[str, Pool], shared: Mapping[str, Pool] | None = None) -> None:
        """Other limits from now on; ``local`` is to be told by itself. Raises as the constructor does.

        What has been used stays used, also while other daemons still have the old ones (`lua/common.lua`).
        """
        self.check(pools, shared or {})
        self._pools, self._default = dict(pools), pools[self._default_name]
        self._shared = {name: store_script.shared_place(pool) for name, pool in (shared or {}).items()}
        self._refusals = Refusals()

    @staticmethod
    def check(pools: Mapping[str, Pool], shared: Mapping[str, Pool]) -> None:
        """Raises ConfigError: they are no limits that Redis can keep."""
        try:
            for pool in (*pools.values(), *shared.values()):
                store_script.check(pool)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    async def admit(self, client: str, pool: str, tokens: int) -> Verdict:
        """`ask`, and wait for it: never longer than the deadline, never with an error."""
        return await self.ask(client, pool, tokens)

    def ask(self, client: str, pool: str, tokens: int) -> "asyncio.Future[Verdict]":
        """Without awaiting: the verdict is there at once when Redis need not be asked or is away.

        Whoever cancels it is not charged.
        """
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        now_ns = self._now_ns()
        limits = self._pools.get(pool, self._default)
        shared = self._shared.get(limits.name)
        if shared is None and not limits.limits and limits.concurrent is None:
            verdict.set_result(FREE)
            return verdict
        refused = self.refused_locally(client, limits.name, tokens, now_ns)
        if refused is not None:
            verdict.set_result(refused)
            return verdict
        own = store_script.own_place(limits, client)
        places = (own,) if shared is None else (own, shared)
        asked = _Asked(client, limits.name, tokens, places, next(self._leases), now_ns)
        words: list[str | int] = [asked.lease, self._lease_us]
        words += [store_script.charge(place.pool, tokens) for place in places]
        call = Call(
            "decide", store_script.keys(places), words, lambda answer: self._decided(verdict, asked, answer)
        )
        if not self._line.ask(call):
            verdict.set_result(self._instead(asked))
        return verdict

    def refused_locally(self, client: str, pool: str, tokens: int, now_ns: int) -> Refused | None:
        """What Redis would say, as far as that is known without asking it."""
        if self._line.state is not State.CONNECTED:
            return None
        return self._refusals.find(client, pool, tokens, now_ns)

    def standings(self, client: str, pool: str, now_ns: int) -> list[Standing]:
        """For a refusal, which has no grant to ask."""
        limits = self._pools.get(pool, self._default)
        if self._line.state is State.CONNECTED:
            return self._refusals.standings(client, limits.name, now_ns)
        return self._local.standings(client, limits.name, now_ns) if self._on_failure == "local" else []

    def finish(self, grant: SharedGrant, words: Sequence[str]) -> None:
        """To be called by the grant: it is over, and this is to be corrected."""
        self._running.discard(grant)
        self._refusals.forget(grant.client, grant.pool)
        self._line.post(Call("finish", store_script.keys(grant.places), [grant.lease, *words], lasting=True))

    async def keep(self) -> None:
        """The work behind it, for as long as the daemon lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._line.run(), name="limits store")
            group.create_task(self._keep_leases(), name="limits leases")

    async def close(self) -> None:
        """What is posted is sent first, if Redis takes it within the deadline. `keep` is to be cancelled then."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._line.flush()
        except TimeoutError:
            pass

    async def _keep_leases(self) -> None:
        while True:
            await self._clock.sleep(self._lease_s / RENEWALS)
            if self._line.state is State.CONNECTED:
                self._renew()

    def _renew(self) -> None:
        leases: defaultdict[str, list[str]] = defaultdict(list)
        for grant in self._running:
            for place in grant.places:
                leases[place.leases].append(grant.lease)
        for key, names in leases.items():
            self._line.post(Call("renew", [key], [self._lease_us, *names]))

    @property
    def _lease_us(self) -> int:
        return round(self._lease_s * 1e6)

    def _now_ns(self) -> int:
        return self._clock.now_ns()

    def _decided(self, verdict: "asyncio.Future[Verdict]", asked: _Asked, answer: bytes | Lost) -> None:
        if isinstance(answer, Lost):
            if answer.perhaps_done:
                self._take_back(asked)
            if not verdict.done():
                verdict.set_result(self._instead(asked))
            return
        try:
            found = store_script.decided(answer, [place.pool for place in asked.places])
        except ValueError:  # whatever answers there is no Redis that runs our scripts
            if not verdict.done():
                verdict.set_result(self._instead(asked))
            return
        # It was later than that: what we say of a bucket later on is never stricter than what Redis would say.
        found.move(asked.at_ns)
        if found.admitted:
            grant = SharedGrant(self, asked, found.accounts)
            self._running.add(grant)
            if verdict.done():  # cancelled
                grant.refund(self._now_ns())
            else:
                verdict.set_result(grant)
            return
        self._refusals.keep(asked.client, asked.pool, found)
        if not verdict.done():
            refused = store_script.refusal(found.accounts, asked.tokens, asked.at_ns)
            verdict.set_result(refused or Refused(CROWDED_WAIT_NS, "concurrent", shared=False))

    def _take_back(self, asked: _Asked) -> None:
        words = [store_script.refund(place.pool, asked.tokens) for place in asked.places]
        self._line.post(Call("finish", store_script.keys(asked.places), [asked.lease, *words], lasting=True))

    def _instead(self, asked: _Asked) -> Verdict:
        """The verdict without Redis."""
        match self._on_failure:
            case "local":
                return self._local.admit(asked.client, asked.pool, asked.tokens, self._now_ns())
            case "allow":
                return FREE
            case "deny":
                return Unavailable(max(1.0, self._line.retry_s), self._line.reason)
