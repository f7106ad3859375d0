"""6 Whose turn is it? A gate per model: at most `slots` requests inside the child, the others in a queue.

llama-server's own queue is first-come, unbounded, and does not notice that a waiting client has left;
so the queue is here. A request waits for a slot, and it waits while the child starts, restarts or is
replaced; it is refused when that cannot end well within ``queue_timeout_s``.

A gate also keeps requests from a generation that is in doubt. A connection is often seen to break
before the exit of its process is: until the instance has published something newer, or has
answered a poke, nothing is sent.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.clock import Clock
from supervisor.errors import (
    LlmsupError,
    ModelLoading,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
    UpstreamTimeout,
)
from supervisor.events import InstanceView
from supervisor.proc.hang import Standing, longest_trial_s
from supervisor.proxy.decision import WAIT, Wait
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.stillness import Stillness
from supervisor.proxy.upstream import Pool, Upstream
from supervisor.types import Generation, ModelName


@dataclass(frozen=True, slots=True)
class Bounds:
    """From ``proxy:`` and ``retry:`` of the configuration."""

    concurrent: int
    queue_size: int
    queue_timeout_s: float
    silence_s: float
    max_retries: int


class Gate:
    """The way to one model. ``active``: what is at the child now; ``waiting``: what is not."""

    def __init__(
        self,
        admission: "Admission",
        view: InstanceView,
        poke: Callable[[ModelName, Generation], None],
        reject: Callable[[Exchange, LlmsupError], None],
    ) -> None:
        self.view = view
        self.active: set[Exchange] = set()
        self.waiting: deque[Exchange] = deque()
        self.leases = 0
        self._admission = admission
        self._poke = poke
        self._reject = reject
        self._pool: Pool | None = None
        self._pool_generation = Generation(0)
        self._doubted_at: int | None = None  # `view.checks` when doubt arose
        self._stillness = Stillness()
        self._suspect_since = 0.0
        self._cleared_at = 0.0  # when the child, suspected to hang, last showed that it does not
        self._emptied = asyncio.Event()

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
            ModelUnavailable: waiting would not help.
            QueueFull: too many wait already.
        """
        if self.open and (not exchange.needs_slot or (not self.waiting and self._free)):
            self._activate(exchange)
            return True
        hopeless = self._hopeless()
        if hopeless is not None:
            raise hopeless
        if self._admission.waiting >= self._admission.bounds.queue_size:
            raise QueueFull(
                f"{self._admission.waiting} requests wait already", retry_after_s=1.0, hint="try again later"
            )
        self._wait(exchange)
        return False

    @property
    def _free(self) -> bool:
        return self.leases < self.view.slots and self._admission.leases < self._admission.bounds.concurrent

    def _activate(self, exchange: Exchange) -> None:
        self.active.add(exchange)
        if exchange.needs_slot:
            exchange.leased = True
            self.leases += 1
            self._admission.leases += 1

    def _wait(self, exchange: Exchange, *, first: bool = False) -> None:
        now = self._admission.clock.now()
        exchange.waiting_since = now
        exchange.deadline = now + self._admission.bounds.queue_timeout_s
        self._admission.waiting += 1
        if first:
            self.waiting.appendleft(exchange)
        else:
            self.waiting.append(exchange)

    def leave(self, exchange: Exchange) -> None:
        """It has been answered, refused, or its client is gone."""
        if exchange in self.active:
            self._deactivate(exchange)
            self._admission.pump()
        elif exchange.waiting_since:
            with contextlib.suppress(ValueError):
                self.waiting.remove(exchange)
                self._admission.waiting -= 1

    def _deactivate(self, exchange: Exchange) -> None:
        self.active.discard(exchange)
        if exchange.leased:
            exchange.leased = False
            self.leases -= 1
            self._admission.leases -= 1
        if not self.active:
            self._emptied.set()

    def lost(self, exchange: Exchange, error: LlmsupError) -> None:
        """Its connection broke before any byte went to the client: it may be asked again, first in line."""
        if exchange not in self.active:
            return
        self._deactivate(exchange)
        hopeless = self._hopeless()
        if exchange.final or exchange.attempts > self._admission.bounds.max_retries:
            self._reject(exchange, error)
        elif hopeless is not None:
            self._reject(exchange, hopeless)
        else:
            self.doubt()
            self._wait(exchange, first=True)
        self._admission.pump()

    def doubt(self) -> None:
        """Send nothing more to this generation until it has shown that it lives."""
        if self._doubted_at is None and self.view.ready:
            self._doubted_at = self.view.checks
            self._poke(self.view.name, self.view.generation)

    def pump(self, send: Callable[[Exchange], None]) -> bool:
        """Send the next waiting request if it may go; says whether one went."""
        if not (self.waiting and self.open and (self._free or not self.waiting[0].needs_slot)):
            return False
        exchange = self.waiting.popleft()
        self._admission.waiting -= 1
        exchange.queue_ms += int((self._admission.clock.now() - exchange.waiting_since) * 1000)
        exchange.waiting_since = 0.0
        self._activate(exchange)
        send(exchange)
        return True

    # ---- the instance

    def on_view(self, view: InstanceView) -> None:
        if self.view.suspect is not None and view.suspect is None and view.checks > self.view.checks:
            self._cleared_at = self._admission.clock.now()
        if self.view.suspect is None and view.suspect is not None:
            self._suspect_since = self._admission.clock.now()
        self.view = view
        if view.ready and view.endpoint is not None:
            if view.generation != self._pool_generation:
                self._pool = Pool(view.endpoint, view.name, self, self._admission.clock)
                self._pool_generation = view.generation
                self._doubted_at = None
            elif self._doubted_at is not None and view.checks > self._doubted_at:
                self._doubted_at = None
            self._admission.pump()
            return
        self._doubted_at = None
        hopeless = self._hopeless()
        if hopeless is not None:
            self._empty_queue(hopeless)

    def _hopeless(self) -> LlmsupError | None:
        """Why waiting would be in vain, if it would."""
        view, bounds = self.view, self._admission.bounds
        if self._admission.draining:
            return ModelUnavailable("llmsup is shutting down", retry_after_s=bounds.queue_timeout_s)
        if not view.coming:
            return ModelUnavailable(
                view.why(), hint="see: llmsup status", retry_after_s=bounds.queue_timeout_s
            )
        if view.next_try_at is not None:
            wait_s = view.next_try_at - self._admission.clock.now()
            if wait_s > bounds.queue_timeout_s:
                return ModelUnavailable(f"{view.why()}; next try in {wait_s:.0f} s", retry_after_s=wait_s)
        return None

    def _empty_queue(self, error: LlmsupError) -> None:
        waiting, self.waiting = self.waiting, deque()
        self._admission.waiting -= len(waiting)
        for exchange in waiting:
            self._reject(exchange, error)

    def refuse_waiting(self) -> None:
        """The daemon goes: nobody waiting will be served any more."""
        hopeless = self._hopeless()
        if hopeless is not None:
            self._empty_queue(hopeless)

    def abort(self, generation: Generation) -> None:
        if self._pool is not None and self._pool_generation == generation:
            self._pool.close()
            self._pool = None

    async def emptied(self) -> None:
        """Wait until nothing is at the child."""
        while self.active:
            self._emptied.clear()
            await self._emptied.wait()

    # ---- time

    def sweep(self, now: float) -> None:
        # All of them: one that is asked again stands first in line, with the latest deadline.
        for exchange in [one for one in self.waiting if one.deadline <= now]:
            self._reject(exchange, self._too_late(exchange, now))
        if self._pool is not None:
            self._stillness.note(self._pool.sweep(now, self._silence), now)

    def standing(self) -> Standing:
        return self._stillness.standing(self._admission.clock.now())

    def _too_late(self, exchange: Exchange, now: float) -> LlmsupError:
        waited_s = now - exchange.waiting_since
        if not self.view.ready:
            return ModelLoading(f"waited {waited_s:.0f} s; {self.view.why()}", retry_after_s=5.0)
        if self.view.suspect is not None:
            return ModelUnavailable(f"waited {waited_s:.0f} s; {self.view.why()}", retry_after_s=5.0)
        if self._doubted_at is not None:
            return ModelUnavailable(
                f"waited {waited_s:.0f} s; llama-server ({self.view.name}) does not answer", retry_after_s=5.0
            )
        return QueueTimeout(f"waited {waited_s:.0f} s for a free slot", retry_after_s=5.0)

    def _silence(self, upstream: Upstream, quiet_s: float) -> None:
        """An answer stands still. Slow is not broken: while the child uses the processor, it waits on.

        Whether the child hangs is for its instance to find out (`proc.hang`). If it does, it is replaced, and this
        request is asked again. It is given up if the child has shown meanwhile that it lives, so that only this one
        answer does not come, or if the child hangs and may not be killed for it any more.
        """
        now, limit_s = self._admission.clock.now(), self._admission.bounds.silence_s
        idle_s = self._stillness.idle_s(self.view.pid, now)
        alone = quiet_s >= limit_s and self._cleared_at > now - quiet_s
        suspect_s = now - self._suspect_since if self.view.suspect is not None else 0.0
        hopeless = min(quiet_s, suspect_s) >= longest_trial_s(limit_s)
        if (alone and idle_s >= limit_s) or hopeless:
            upstream.give_up(
                UpstreamTimeout(f"no byte from llama-server for {quiet_s:.0f} s, and no sign of work")
            )


class Admission:
    """The gates, and what they share: the ceiling over all models and the queue's length."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self.bounds = bounds
        self.clock = clock
        self.leases = 0
        self.waiting = 0
        self.draining = False
        self.gates: dict[ModelName, Gate] = {}
        self._turns: deque[Gate] = deque()
        self._send: Callable[[Exchange], None] = lambda _: None

    def open(
        self,
        views: Iterable[InstanceView],
        *,
        poke: Callable[[ModelName, Generation], None],
        reject: Callable[[Exchange, LlmsupError], None],
        send: Callable[[Exchange], None],
    ) -> None:
        self._send = send
        for view in views:
            self.gates[view.name] = Gate(self, view, poke, reject)
        self._turns.extend(self.gates.values())

    def decide(self, exchange: Exchange) -> Wait | None:
        """Stage 6."""
        assert exchange.gate is not None  # noqa: S101  stage 3 set it
        return None if exchange.gate.enter(exchange) else WAIT

    def pump(self) -> None:
        """Something became free: let the gates send in turn, so that none starves another."""
        while self.waiting:
            for _ in self.gates:
                gate = self._turns[0]
                self._turns.rotate(-1)
                if gate.pump(self._send):
                    break  # the next one begins where this one ended
            else:
                return

    def on_view(self, view: InstanceView) -> None:
        gate = self.gates.get(view.name)
        if gate is not None:
            gate.on_view(view)

    def sweep(self, now: float) -> None:
        for gate in self.gates.values():
            gate.sweep(now)

    def drain(self) -> None:
        """From now on nothing is admitted and nothing waits."""
        self.draining = True
        for gate in self.gates.values():
            gate.refuse_waiting()

    # ---- what an instance asks of the proxy (`proc.instance.Traffic`)

    async def drained(self, name: ModelName, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.gates[name].emptied()

    def standing(self, name: ModelName) -> Standing:
        return self.gates[name].standing()

    def abort(self, name: ModelName, generation: Generation) -> None:
        self.gates[name].abort(generation)
