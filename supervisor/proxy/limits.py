"""4 May they? Asks `ratelimit`, and turns a refusal into what the client is told.

A request is charged once, whatever becomes of it: what is sent again or continued after a death is still the same
request. The charge ends in one place for all ways in which a request can end (`Limits.end`): with what was really
used, or, where nothing was served and that is not its sender's fault, as if it had never been made. What has brought
llama-server down, or was inside then, is never given back, and a request that is wrong is a request all the same.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import ClassVar

import structlog

from supervisor.clock import Clock
from supervisor.errors import LlmsupError, ServiceError
from supervisor.proxy import cached, limit_headers, request_bounds, settlement
from supervisor.proxy.counting import PromptCounter
from supervisor.proxy.decision import WAIT, Decision
from supervisor.proxy.inflight import Client, Exchange
from supervisor.proxy.sequences import SLOTLESS
from supervisor.ratelimit.limiter import Limiter, Refused
from supervisor.ratelimit.pools import OF_KEYS, Pool
from supervisor.ratelimit.store_redis import SharedLimiter, Unavailable, Verdict
from supervisor.ratelimit.tokens import OutputLengths, estimate, prompt_of
from supervisor.ratelimit.violations import Violations

log: structlog.stdlib.BoundLogger = structlog.get_logger("limits")

ANTHROPIC = b"/v1/messages"
CONCURRENT = "concurrent"
ALL = "all"  # in the place of one policy: who is admitted, is so by all of them

Decide = Callable[[], Decision]
Tell = Callable[[str, str, int], None]
GoOn = Callable[[Exchange, Decide], None]


def _nowhere(exchange: Exchange, decide: Decide) -> None:
    raise AssertionError("nobody goes on with requests")


def _nobody(client: str, limit: str, refused: int) -> None:
    """Who is told where nobody wants to know."""


class RateLimited(LlmsupError):
    """``lines``: what the header says of the limits and of the wait."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    lines: bytes = b""


class TooManyAtOnce(RateLimited):
    code = "concurrency_limit_exceeded"


class LimitsUnavailable(ServiceError):
    """The store that decides is away, and the operator wants nobody admitted then."""

    code = "limits_unavailable"
    default_hint = "see: llmsup status"


def unlimited(clock: Clock) -> "Limits":
    """Everybody may everything."""
    pools = {"anonymous": Pool("anonymous")}
    return Limits(Limiter(pools), pools, clock)


class Limits:
    """Stage 4, and the end of what it began. ``counts``: decisions, by pool, policy and outcome."""

    ADMITTED: ClassVar[str] = "admitted"
    REFUSED: ClassVar[str] = "refused"

    def __init__(
        self,
        limiter: Limiter,
        pools: Mapping[str, Pool],
        clock: Clock,
        *,
        shared: Mapping[str, Pool] | None = None,
        counter: PromptCounter | None = None,
        store: SharedLimiter | None = None,
    ) -> None:
        self.limiter = limiter
        self.store = store
        self._counter = counter
        self._tasks: set[asyncio.Task[None]] = set()
        self._go_on: GoOn = _nowhere
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._clock = clock
        self._violations = Violations()
        self.tell: Tell = _nobody  # of each client, limit and number of refusals, once a minute
        self._outputs = OutputLengths()
        self._of_tokens: dict[str, bool] = {}
        self._of_others = False
        self._note(pools, shared or {})

    def __repr__(self) -> str:
        return f"<Limits {self.limiter}>"

    def configure(self, pools: Mapping[str, Pool], shared: Mapping[str, Pool] | None = None) -> None:
        """Other limits from now on; what has been used stays used. To be `check`ed before."""
        if self.store is not None:
            self.store.configure(pools, shared)
        self.limiter.configure(pools, shared)
        self._note(pools, shared or {})

    def check(self, pools: Mapping[str, Pool], shared: Mapping[str, Pool]) -> None:
        """Raises ConfigError: the store cannot keep such limits."""
        if self.store is not None:
            self.store.check(pools, shared)

    def _note(self, pools: Mapping[str, Pool], shared: Mapping[str, Pool]) -> None:
        """Those of which tokens count need an estimate."""
        counted = {pool.name for pool in (*pools.values(), *shared.values()) if pool.of_tokens}
        self._of_tokens = {name: name in counted for name in pools}
        self._of_others = "anonymous" in counted  # keys may name a pool that is not there any more
        self._of_keys = {name.removesuffix(OF_KEYS): name for name in pools if name.endswith(OF_KEYS)}

    def _pool(self, client: Client) -> str:
        """Whose limits it has: those with a key may have the same as others of their pool, but shared with nobody."""
        return client.pool if client.key is None else self._of_keys.get(client.pool, client.pool)

    def open(self, go_on: GoOn) -> None:
        """``go_on``: takes a request that waited for a decision through the stages behind this one."""
        self._go_on = go_on

    def decide(self, exchange: Exchange) -> Decision:
        """Charge the request and note the charge.

        Raises:
            RateLimited, TooManyAtOnce: it would be too much; nothing is charged.
        """
        if exchange.path in cached.OWN and exchange.method in cached.READING:
            return None  # a health check is never refused
        if not self._of_tokens.get(exchange.client.pool, self._of_others):
            return self._charge(exchange, 0)
        if self._counter is not None and self._counter.worth(exchange) and not self._spent(exchange):
            self._later(self._counted(exchange, self._counter))
            return WAIT
        return self._charge(exchange, self._estimate(exchange))

    def look(self, exchange: Exchange) -> None:
        """Before its body is read, or taken: whether it can be admitted at all. Nothing is charged.

        Raises:
            RateLimited: its client may ask nothing now.
        """
        if exchange.path in cached.OWN and exchange.method in cached.READING:
            return
        refused = self._refused(exchange.client)
        if refused is not None:
            raise self._refusal(exchange.client, exchange.path, refused, self._clock.now_ns())

    def _refused(self, client: Client) -> Refused | None:
        now_ns = self._clock.now_ns()
        if self.store is not None:
            refused = self.store.refused_locally(client.name, self._pool(client), 0, now_ns)
            # Of those at work at once there may be fewer when its body is there.
            return None if refused is not None and refused.limit.endswith(CONCURRENT) else refused
        return self.limiter.refused(client.name, self._pool(client), now_ns)

    def charge_refusal(self, client: Client, path: bytes) -> RateLimited | None:
        """What is no request that can be served is charged as one: else refusals would be free, however many are
        asked for. What to say in the place of the refusal when there is nothing left to charge.
        """
        now_ns = self._clock.now_ns()
        refused = self._refused(client)
        if refused is not None:
            return self._refusal(client, path, refused, now_ns)
        if self.store is not None:
            self.store.ask(client.name, self._pool(client), 0).add_done_callback(_settled(now_ns))
        elif not isinstance(grant := self.limiter.admit(client.name, self._pool(client), 0, now_ns), Refused):
            grant.settle(0, now_ns)
        return None

    def _charge(self, exchange: Exchange, tokens: int) -> Decision:
        client = exchange.client
        now_ns = self._clock.now_ns()
        if self.store is not None:
            verdict = self.store.ask(client.name, self._pool(client), tokens)
            if not verdict.done():
                verdict.add_done_callback(lambda told: self._told(exchange, told))
                return WAIT
            self._take(exchange, verdict.result(), now_ns)
            return None
        pool = client.pool if client.key is None else self._pool(client)  # most have none: without a call
        self._take(exchange, self.limiter.admit(client.name, pool, tokens, now_ns), now_ns)
        return None

    def _take(self, exchange: Exchange, outcome: Verdict, now_ns: int) -> None:
        if isinstance(outcome, Refused):
            raise self._refusal(exchange.client, exchange.path, outcome, now_ns)
        if isinstance(outcome, Unavailable):
            raise LimitsUnavailable(
                f"the store of limits is away: {outcome.reason}", retry_after_s=outcome.retry_after_s
            )
        exchange.grant = outcome
        self.counts[exchange.client.pool, ALL, self.ADMITTED] += 1
        if exchange.path == ANTHROPIC:
            exchange.lines += limit_headers.lines_anthropic(outcome, now_ns, self._clock.wall())
        else:
            exchange.lines += limit_headers.lines(outcome, now_ns)

    # ---- what somebody else must be asked for first

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spent(self, exchange: Exchange) -> bool:
        """Whether its client will be refused whatever the count is: then it costs the child nothing."""
        client, now_ns = exchange.client, self._clock.now_ns()
        name, pool = client.name, self._pool(client)
        if self.store is not None:
            return self.store.refused_locally(name, pool, 1, now_ns) is not None
        return any(not one.remaining for one in self.limiter.standings(name, pool, now_ns))

    async def _counted(self, exchange: Exchange, counter: PromptCounter) -> None:
        try:
            prompt = await counter.count(exchange)
        except Exception:  # a defect of ours: nobody else would end its wait
            log.exception("prompt not counted", **exchange.names)
            prompt = None
        if not exchange.gone:
            self._go_on(exchange, lambda: self._charge(exchange, self._estimate(exchange, prompt)))

    def _told(self, exchange: Exchange, verdict: "asyncio.Future[Verdict]") -> None:
        """The store has decided, or failed to, which is told where requests fail. Nobody may wait for it any more."""
        if not exchange.gone:
            self._go_on(exchange, lambda: self._take(exchange, verdict.result(), self._clock.now_ns()))
        elif not isinstance(outcome := verdict.result(), Refused | Unavailable):
            outcome.refund(self._clock.now_ns())

    def _estimate(self, exchange: Exchange, prompt: int | None = None) -> int:
        gate = exchange.gate
        if gate is None or not exchange.needs_slot:
            return 0
        if prompt is None:
            prompt = prompt_of(len(exchange.body))
        if exchange.demand.reads_only:
            return prompt
        if exchange.path in SLOTLESS:  # a large body to one of them: it takes a slot, and writes nothing
            return 0
        output = self._outputs.of(exchange.client.name, gate.view.name)
        cap = request_bounds.cap(exchange.asked or {})
        return estimate(prompt, cap, output, gate.view.context_size, exchange.demand.sequences)

    def _refusal(self, client: Client, path: bytes, refused: Refused, now_ns: int) -> RateLimited:
        self._violations.add(client.name, refused.limit, now_ns)
        self.counts[client.pool, refused.limit, self.REFUSED] += 1
        kind = TooManyAtOnce if refused.limit.endswith(CONCURRENT) else RateLimited
        error = kind(_told(client.name, refused), retry_after_s=refused.wait_ns / 1e9)
        limiter = self.limiter if self.store is None else self.store
        standings = limiter.standings(client.name, self._pool(client), now_ns)
        wall = self._clock.wall() if path == ANTHROPIC else None
        error.lines = limit_headers.refused_lines(standings, wall) + limit_headers.retry(
            refused.wait_ns, random.random
        )
        return error

    def end(self, exchange: Exchange) -> None:
        """The request is over: put what it took in the place of the estimate, or give all of it back."""
        grant, exchange.grant = exchange.grant, None
        if grant is None:
            return
        now_ns = self._clock.now_ns()
        if exchange.unserved or not exchange.attempts:
            if exchange.crashes or exchange.excused:
                grant.settle(None, now_ns)
            elif exchange.own_fault:
                grant.settle(0, now_ns)
            else:
                grant.refund(now_ns)
            return
        if not self._of_tokens.get(exchange.client.pool, self._of_others):
            grant.settle(None, now_ns)
            return
        grant.settle(settlement.taken(exchange), now_ns)
        usage = exchange.usage
        if (
            usage is not None
            and usage.completion
            and exchange.demand.sequences == 1
            and exchange.gate is not None
        ):
            self._outputs.of(exchange.client.name, exchange.gate.view.name).learn(usage.completion)

    def sweep(self) -> None:
        """Once a second: forget the idle, and tell of those who were refused in the minute that is over."""
        now_ns = self._clock.now_ns()
        self.limiter.cleanup(now_ns)
        for one in self._violations.due(now_ns):
            client = one.client or "many more"
            log.warning("rate limited", client=client, limit=one.limit, refused=one.count)
            self.tell(client, one.limit, one.count)


def _settled(now_ns: int) -> Callable[["asyncio.Future[Verdict]"], None]:
    """For a charge that nothing is served for: what was taken is all that it takes."""

    def settle(verdict: "asyncio.Future[Verdict]") -> None:
        if not isinstance(outcome := verdict.result(), Refused | Unavailable):
            outcome.settle(0, now_ns)

    return settle


def _told(client: str, refused: Refused) -> str:
    who = "all clients of this kind together" if refused.shared else client
    if refused.limit.endswith(CONCURRENT):
        return f"{who}: as many requests at once as are allowed"
    return f"{who}: over the limit {refused.limit!r}; try again in {refused.wait_ns / 1e9:.3g} s"
