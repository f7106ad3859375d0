"""6 Whose turn is it? A gate per model: at most `slots` requests inside the child, the others in a queue.

llama-server's own queue is first-come, unbounded, and does not notice that a waiting client has left;
so the queue is here. A request waits for a slot, and it waits while the child starts, restarts or is
replaced; it is refused when that cannot end well within ``queue_timeout_s``.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable

from supervisor.clock import Clock
from supervisor.events import Inside, InstanceView
from supervisor.proc.hang import Standing
from supervisor.proc.residents import Usage
from supervisor.proxy.bans import Bans
from supervisor.proxy.bounds import Bounds
from supervisor.proxy.decision import WAIT, Wait
from supervisor.proxy.gate import Gate
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.quarantine import Quarantine
from supervisor.proxy.ties import Ties
from supervisor.proxy.turns import Share
from supervisor.types import Generation, ModelName


def _nobody(client: str, seconds: float) -> None:
    """Who is told of a ban where nobody wants to know."""


class Admission:
    """The gates, and what they share: the ceiling over all models and the queue's length."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self.bounds = bounds
        self.shares: dict[str, Share] = {}  # by pool; who is in none of them waits like everybody
        self.clock = clock
        self.leases = 0
        self.waiting = 0
        self.draining = False
        self.quarantine = Quarantine()
        self.bans = Bans()
        self.tell_ban: Callable[[str, float], None] = (
            _nobody  # of each client whose door closes, with seconds
        )
        self.gates: dict[ModelName, Gate] = {}
        self.offered: dict[ModelName, Gate] = {}  # those of models that take requests: not of one that leaves
        self._turns: deque[Gate] = deque()
        self._send: Callable[[Exchange], None] = lambda _: None
        self._ties: Ties | None = None

    def open(
        self,
        views: Iterable[InstanceView],
        *,
        ties: Ties,
        send: Callable[[Exchange], None],
    ) -> None:
        self._send, self._ties = send, ties
        for view in views:
            self.add(view)

    def add(self, view: InstanceView) -> None:
        """That model takes requests from now on."""
        assert self._ties is not None  # noqa: S101  open() comes first
        gate = self.gates[view.name] = self.offered[view.name] = Gate(self, view, self._ties)
        self._turns.append(gate)

    def remove(self, name: ModelName) -> None:
        """Nothing is left of it but what may have begun to wait just now."""
        gate = self.gates[name]
        gate.refuse_waiting()
        self._turns.remove(gate)
        del self.gates[name]
        self.offered.pop(name, None)

    def decide(self, exchange: Exchange) -> Wait | None:
        """Stage 6."""
        assert exchange.gate is not None  # noqa: S101  stage 3 set it
        return None if exchange.gate.enter(exchange) else WAIT

    def make_room(self, newcomer: Exchange) -> bool:
        """The queue is full. Whoever fills it with most gives the newest of theirs up for one who has fewer there.

        More than one, where the next request of the same connection takes the place at once (pipelining).
        """
        while self.waiting >= self.bounds.queue_size:
            crowd = max((gate.waiting.longest() for gate in self.gates.values()), key=lambda one: one.count)
            own = sum(gate.waiting.count(newcomer) for gate in self.gates.values())
            if crowd.newest is None or crowd.count <= own + 1:
                return False
            gate = crowd.newest.gate
            assert gate is not None  # noqa: S101  it waits there
            gate.displace(crowd.newest)
        return True

    def banned(self, client: str, seconds: float) -> None:
        """Its door has closed: what it has waiting, for whichever model, goes too."""
        self.tell_ban(client, seconds)
        for gate in self.gates.values():
            gate.refuse_client(client)

    def forgive(self) -> None:
        """An operator begins anew: no client is banned and no request is known any more."""
        self.bans.clear()
        self.quarantine.clear()

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
            if view.removed:
                self.offered.pop(view.name, None)
            else:
                self.offered[view.name] = gate
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

    async def drained(self, name: ModelName, generation: Generation, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.gates[name].emptied(generation)

    def usage(self, name: ModelName) -> Usage:
        gate = self.gates[name]
        return Usage(busy=bool(gate.active or gate.waiting), asked=gate.asked)

    def standing(self, name: ModelName, generation: Generation) -> Standing:
        return self.gates[name].standing(generation)

    def abort(self, name: ModelName, generation: Generation) -> Inside:
        return self.gates[name].abort(generation)
