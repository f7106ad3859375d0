"""The way to one model: at most `slots` requests inside the child, the others in a queue.

A gate keeps requests from a generation that is in doubt. A connection is often seen to break before the exit of
its process is: until the instance has published something newer, or has answered a poke, nothing is sent.

A request that the child dropped comes back here, and goes out again first in line: to the next generation at once, to the
same one after ``retry.delay_ms``. Of those that were inside at a crash, `suspects` finds the one that did it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from supervisor.errors import LlmsupError, ModelUnavailable
from supervisor.events import Inside, InstanceView
from supervisor.proc.hang import Standing
from supervisor.proxy import refusals
from supervisor.proxy.breaker import Breaker
from supervisor.proxy.canaries import half_open
from supervisor.proxy.forecast import ServiceTimes
from supervisor.proxy.former import Former
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.patience import Patience, hang_up_on_those_who_do_not_read
from supervisor.proxy.request_bounds import ORDINARY
from supervisor.proxy.retry import Retries, allowed, quarantined, reason_of
from supervisor.proxy.suspects import Suspects
from supervisor.proxy.ties import Ties
from supervisor.proxy.turns import Turns
from supervisor.proxy.upstream import Pool
from supervisor.types import Generation

if TYPE_CHECKING:
    from supervisor.proxy.admission import Admission

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


class Gate:
    """``active``: what is at the child now; ``waiting``: what is not."""

    def __init__(self, admission: "Admission", view: InstanceView, ties: Ties) -> None:
        self.view = view
        self.active: set[Exchange] = set()
        self.waiting = Turns(admission.shares, self.active)
        self.leases = 0
        self.asked = 0  # requests sent so far, to tell an idle model by
        self.tokens = 0  # of its streams so far, as they came
        self.breaker = Breaker(admission.bounds.breaker)
        self._admission = admission
        self._ties = ties
        self._retries = Retries(admission.bounds.retry)
        self._times = ServiceTimes()
        self._retrying = 0
        self._suspects = Suspects(admission.quarantine, admission.bans, admission.clock, admission.banned)
        self._pool: Pool | None = None
        self._pool_generation = Generation(0)
        self._short = False  # whose turn it is needs more leases than there are
        self._former = Former()
        self._doubted_at: int | None = None  # `view.checks` when doubt arose
        self._patience = Patience(admission.bounds.silence_s)
        self._emptied = asyncio.Event()
        self._canaries: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Gate {self.view.name} {self.view.state}: {len(self.active)} active, {len(self.waiting)} waiting>"

    @property
    def open(self) -> bool:
        """Whether a request may be sent now, slots aside."""
        return (
            self._pool is not None
            and self.view.ready
            and self._doubted_at is None
            and self.view.suspect is None
            and self.breaker.closed
            and not self._admission.draining
        )

    @property
    def pool(self) -> Pool:
        assert self._pool is not None  # noqa: S101  asked only while open
        return self._pool

    # ---- requests

    def enter(self, exchange: Exchange) -> bool:
        """True: send it now. False: it waits.

        Raises:
            Quarantined, ClientBanned: it has killed llama-server before, or its client has.
            ModelUnavailable: waiting would not help.
            QueueFull, QueueTimeout: too many wait already.
        """
        admission = self._admission
        if admission.bans.until or admission.quarantine.until:
            self._suspects.check(exchange)
        if (
            self.open
            and (not self._suspects.cases or self._suspects.may_go(exchange, self._inside))
            and (
                not exchange.needs_slot
                or (
                    self._free
                    and (exchange.demand is ORDINARY or self._fits(exchange))
                    and (
                        not self.waiting.size
                        or (self._next() is None and not self._short and self.waiting.passes(exchange))
                    )
                )
            )
        ):
            self._activate(exchange)
            return True
        hopeless = self._hopeless()
        if hopeless is not None:
            raise hopeless
        expected_s = self._expected_s(self.waiting.ahead_of(exchange))
        if expected_s is not None and expected_s > admission.bounds.queue_timeout_s:
            raise refusals.too_long(expected_s)
        if admission.waiting >= admission.bounds.queue_size and not admission.make_room(exchange):
            raise refusals.queue_full(admission.waiting, expected_s)
        self._wait(exchange)
        return False

    def displace(self, exchange: Exchange) -> None:
        """It waits here, and makes room for somebody who has less waiting."""
        self._ties.reject(exchange, refusals.displaced())

    def _expected_s(self, ahead: int) -> float | None:
        return self._times.wait_s(self.leases + ahead, self.view.slots)

    @property
    def _free(self) -> bool:
        return (
            self.leases - self._former.leases < self.view.slots
            and self._admission.leases < self._admission.bounds.concurrent
            and self.breaker.admits(self.leases)
        )

    def _fits(self, exchange: Exchange) -> bool:
        admission, slots = self._admission, self.view.slots
        concurrent = admission.bounds.concurrent
        room = min(slots - self.leases + self._former.leases, concurrent - admission.leases)
        return room >= exchange.demand.leases(slots, concurrent)

    @property
    def _inside(self) -> int:
        """How many are at the generation in service."""
        return sum(one.sent_to == self._pool_generation for one in self.active)

    def _activate(self, exchange: Exchange) -> None:
        if exchange.crashes:
            self._suspects.went(exchange, self._inside)
        self.active.add(exchange)
        self.waiting.go(exchange)
        self.asked += 1
        exchange.sent_to = self._pool_generation
        if exchange.needs_slot:
            demand, slots = exchange.demand, self.view.slots
            exchange.leased = (
                1 if demand is ORDINARY else demand.leases(slots, self._admission.bounds.concurrent)
            )
            exchange.began_at = self._admission.clock.now()
            self.leases += exchange.leased
            self._admission.leases += exchange.leased
            if exchange.attempts:
                exchange.retrying = True
                self._retrying += 1

    def _wait(self, exchange: Exchange, *, first: bool = False) -> None:
        now = self._admission.clock.now()
        exchange.waiting_since = now
        exchange.deadline = now + self._admission.bounds.queue_timeout_s
        self._admission.waiting += 1
        self.waiting.add(exchange, first=first)
        if self.view.on_demand:
            self._ties.wanted(self.view.name)

    def leave(self, exchange: Exchange) -> None:
        """It has been answered, refused, or its client is gone."""
        if exchange in self.active:
            if exchange.served and exchange.leased:
                self._times.note(self._admission.clock.now() - exchange.began_at)
                self.breaker.succeeded(self.view.slots)
            self._deactivate(exchange)
            if self._suspects.cases or not exchange.served:
                self._suspects.ended(exchange, was_inside=True)
            self._admission.pump()
        elif self.waiting.remove(exchange):
            self._waited(exchange)
            if exchange.crashes:
                self._suspects.ended(exchange, was_inside=False)

    def _waited(self, exchange: Exchange) -> None:
        self._admission.waiting -= 1
        exchange.waited_s += self._admission.clock.now() - exchange.waiting_since
        exchange.queue_ms = int(exchange.waited_s * 1000)
        exchange.waiting_since = 0.0

    def _deactivate(self, exchange: Exchange) -> None:
        self.active.discard(exchange)
        if exchange is self._suspects.alone:
            self._suspects.alone = None
        self.waiting.over(exchange)
        if exchange.leased:
            leases, exchange.leased = exchange.leased, 0
            self.leases -= leases
            self._admission.leases -= leases
            self._former.leases -= leases * (exchange.sent_to != self._pool_generation)
            if exchange.retrying:
                exchange.retrying = False
                self._retrying -= 1
        self._emptied.set()

    # ---- what the child dropped

    def lost(self, exchange: Exchange, error: LlmsupError) -> None:
        """Its connection broke, and it may be asked again, or continued: first in line."""
        if exchange not in self.active:
            return
        self._deactivate(exchange)
        here = exchange.sent_to == self._pool_generation
        verdict = (
            self._suspects.verdict(exchange) or self._retries.given_up(exchange, error) or self._hopeless()
        )
        if verdict is not None:
            self._suspects.ended(exchange, was_inside=True)
            self._ties.reject(exchange, verdict)
        else:
            if here and not isinstance(reason_of(error), int):  # who answers with a status is not in doubt
                self.doubt()
            exchange.refusal = self._retries.refusal(error)
            self._delay(exchange)
            self._wait(exchange, first=True)
        self._admission.pump()

    def _delay(self, exchange: Exchange) -> None:
        """The same generation is not asked again at once."""
        exchange.delayed = True
        self._ties.later(self._retries.delay_s(exchange), partial(self._due, exchange))

    def _due(self, exchange: Exchange) -> None:
        exchange.delayed = False
        self._admission.pump()

    def _refuse(self) -> None:
        """It lives. What it refused for a reason that is not worth another try is not tried again."""
        for one in [one for one in self.waiting if one.sent_to == self._pool_generation]:
            if one.refusal is not None:
                self._ties.reject(one, one.refusal)

    def retries(self, exchange: Exchange, status: int) -> bool:
        return self._retries.wanted(exchange, status) and not self._hopeless()

    def progressed(self) -> None:
        """A stream that goes on has got on: as good as an answer."""
        self.breaker.succeeded(self.view.slots)

    def doubt(self) -> None:
        """Send nothing more to this generation until it has shown that it lives."""
        if self._doubted_at is None and self.view.ready:
            self._doubted_at = self.view.checks
            self._count_failure()
            self._ties.poke(self.view.name, self.view.generation)

    def _count_failure(self) -> None:
        if self.breaker.failed(self._admission.clock.now()):
            log.warning("circuit breaker open", model=self.view.name)

    def _died(self) -> None:
        """A death has become known. In doubt, it has been counted; with nobody inside, it is nobody's failure."""
        death = self.view.last_death
        if death is None:
            return
        if self._doubted_at is None and any(one.sent_to == death.generation for one in self.active):
            self._count_failure()
        self._suspects.died(death, self._at(death.generation))
        for exchange in [one for one in self.waiting if one.convicted]:
            self._ties.reject(exchange, quarantined())

    def _at(self, generation: Generation) -> list[Exchange]:
        """What was sent to it and is there, or waits to be asked again."""
        return [one for one in (*self.active, *self.waiting) if one.sent_to == generation]

    def refuse_client(self, client: str) -> None:
        """What it has waiting here is refused: it has been banned."""
        for exchange in [one for one in self.waiting if one.client.name == client and not one.convicted]:
            verdict = self._suspects.verdict(exchange)
            if verdict is not None:
                self._ties.reject(exchange, verdict)

    # ---- who goes next

    def pump(self, send: Callable[[Exchange], None]) -> bool:
        """Send the next waiting request if it may go; says whether one went."""
        if not (self.waiting and self.open):
            return False
        exchange = self._next()
        if exchange is None:
            return False
        self._waited(exchange)
        self._activate(exchange)
        send(exchange)
        return True

    def _next(self) -> Exchange | None:
        """Whose turn it is, of those that may go. Who needs more room than there is yet, is not passed by."""
        self._short = False
        for exchange in self.waiting.in_turn(free=self._free):
            if self._suspects.cases and not self._suspects.may_go(exchange, self._inside):
                continue
            if not exchange.attempts or self._may_retry(exchange):
                if exchange.demand is not ORDINARY and exchange.needs_slot:
                    self._short = not self._fits(exchange)
                return None if self._short else exchange
        return None

    def first_token(self, exchange: Exchange) -> None:
        """Its prompt has been read; whoever was kept waiting for that goes now. Of a stream that goes on: once more."""
        if not (exchange.continued and exchange.first_token_at):
            exchange.first_token_at = self._admission.clock.now()
        if self.waiting.first_token(exchange) | self._suspects.first_token(exchange):
            self._admission.pump()

    def _may_retry(self, exchange: Exchange) -> bool:
        if exchange.delayed and exchange.sent_to == self._pool_generation:
            return False
        # A stream that goes on is not one that is asked again: its client looks at half a sentence.
        return exchange.answering or allowed(self._retrying, len(self.active))

    # ---- the instance

    def on_view(self, view: InstanceView) -> None:
        before, self.view = self.view, view
        self._patience.on_view(before, view, self._admission.clock.now())
        if view.last_death is not None and view.last_death is not before.last_death:
            self._died()
        if view.ready and view.endpoint is not None:
            if view.generation != self._pool_generation:
                self._former.add(self._pool_generation, self._pool, self.leases)
                self._pool = Pool(view.endpoint, view.name, self, self._admission.clock)
                self._pool_generation = view.generation
                self.waiting.forget_cache()
                self._doubted_at = None
            elif self._doubted_at is not None and view.checks > self._doubted_at:
                self._doubted_at = None
                self._refuse()
            self._admission.pump()
            return
        self._doubted_at = None
        if view.on_demand and self.waiting:
            self._ties.wanted(view.name)
        self.refuse_waiting()

    def _hopeless(self) -> LlmsupError | None:
        """Why waiting would be in vain, if it would."""
        admission = self._admission
        now, timeout_s = admission.clock.now(), admission.bounds.queue_timeout_s
        if admission.draining:
            return ModelUnavailable("llmsup is shutting down", retry_after_s=timeout_s)
        return refusals.hopeless(self.view, self.breaker, now, timeout_s)

    def _empty_queue(self, error: LlmsupError) -> None:
        waiting = self.waiting.clear()
        for exchange in waiting:  # all of them before the first is told, for that may begin another request
            self._waited(exchange)
        for exchange in waiting:
            self._ties.reject(exchange, error)

    def refuse_waiting(self) -> None:
        """Unless there is hope. When the daemon goes, there is none for anybody."""
        hopeless = self._hopeless()
        if hopeless is not None:
            self._empty_queue(hopeless)

    def abort(self, generation: Generation) -> Inside:
        """It ends, or has ended; who was at it."""
        inside = self._suspects.inside(generation, self._at(generation))
        self._former.close(generation)
        if self._pool is not None and self._pool_generation == generation:
            self._pool.close()
            self._pool = None
        return inside

    async def emptied(self, generation: Generation) -> None:
        """Wait until nothing is at that generation."""
        while any(one.sent_to == generation for one in self.active):
            self._emptied.clear()
            await self._emptied.wait()

    # ---- time

    def sweep(self, now: float) -> None:
        # All of them: one that is asked again stands first in line, with the latest deadline.
        for exchange in [one for one in self.waiting if one.deadline <= now]:
            self._ties.reject(exchange, self._too_late(exchange, now))
        if self.waiting:
            hang_up_on_those_who_do_not_read(self.active, now)
        if self._suspects.cases:
            self._suspects.sweep(now)
            self._admission.pump()
        if self._pool is not None:
            self._patience.sweep(self._pool, now)
            if self.view.ready and self.breaker.due(now):
                self._canaries = asyncio.create_task(self._half_open(), name=f"breaker.{self.view.name}")

    async def _half_open(self) -> None:
        if await half_open(self.breaker, self.view.endpoint, self._ties.canary, self._admission.clock):
            log.info("circuit breaker closed", model=self.view.name)
            self._admission.pump()

    def standing(self, generation: Generation) -> Standing:
        if generation != self._pool_generation:
            return Standing(0, 0.0)
        return self._patience.standing(self._admission.clock.now())

    def _too_late(self, exchange: Exchange, now: float) -> LlmsupError:
        return refusals.too_late(
            self.view,
            now - exchange.waiting_since,
            in_doubt=self._doubted_at is not None or not self.breaker.closed,
            expected_s=self._expected_s(len(self.waiting)),
        )
