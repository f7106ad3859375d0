"""Limits, gates and turns together, whatever happens to requests: the books balance after every step.

The pipeline, the admission and the limiter are real; the connections and llama-server are of paper, and the clock stands
until it is told to jump. A second set of books is kept by fractions (`Books`): what each client's buckets must hold.
"""

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.errors import LlmsupError, UpstreamCrashed
from supervisor.proxy.admission import Admission
from supervisor.proxy.bounds import Bounds, RetryBounds
from supervisor.proxy.breaker import BreakerBounds
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import LEFT, Client, Exchange, InFlight
from supervisor.proxy.limits import Limits
from supervisor.proxy.pipeline import Pipeline, Wiring
from supervisor.proxy.sequences import WRITING
from supervisor.proxy.ties import Ties
from supervisor.proxy.turns import Share
from supervisor.proxy.usage import Meter, Usage
from supervisor.ratelimit.limiter import FREE, Grant, Limiter, Refused
from supervisor.ratelimit.pools import Pool, pool
from supervisor.ratelimit.tokens import prompt_of
from supervisor.types import ModelName
from tests.support.clock import FakeClock
from tests.support.proxyrig import view

MODELS = ("one", "two")
LARGE = b'{"model": "%b", "x": "' + b"x" * 10_000 + b'"}'
SMALL = b'{"model": "%b"}'
CONTEXT_TOKENS = 4096  # of each model
TOKEN = b'data: {"stop":false}\n\n'
CLIENTS = {"ann": "user", "bob": "user", "cid": "bulk", "dan": "nothing"}
FIELDS = {
    batch: read_request(((b"X-Llmsup-Priority", b"batch"),) if batch else (), small=True)
    for batch in (False, True)
}


def pools_of(requests: int, tokens: int) -> dict[str, Pool]:
    return {
        "anonymous": pool("anonymous"),
        "nothing": pool("nothing"),
        "user": pool("user", requests_per_hour=requests, tokens_per_minute=tokens, concurrent=6),
        "bulk": pool("bulk", requests_per_hour=2 * requests, concurrent=4, weight=2.0, batch=True),
    }


class Bucket:
    """How much is used of a quota, in units, exactly."""

    def __init__(self, quota: int, window_ns: int) -> None:
        self.quota, self.window_ns = quota, window_ns
        self.used, self.at_ns = Fraction(0), 0

    def add(self, quantity: int, now_ns: int) -> None:
        """Negative: given back."""
        drained = Fraction((now_ns - self.at_ns) * self.quota, self.window_ns)
        self.used, self.at_ns = max(Fraction(0), max(Fraction(0), self.used - drained) + quantity), now_ns

    def remaining(self, now_ns: int) -> int:
        self.add(0, now_ns)
        return max(0, self.quota - -(-self.used.numerator // self.used.denominator))


class Books:
    """What the limiter should know of each client."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Bucket]] = {}
        self.taken: dict[Grant, tuple[str, int, int | None]] = {}

    def open(self, client: str, limits: Pool) -> dict[str, Bucket]:
        return self.buckets.setdefault(
            client, {one.name: Bucket(one.rate.quota, one.rate.window_ns) for one in limits.limits}
        )

    def take(self, grant: Grant, client: str, limits: Pool, tokens: int, now_ns: int) -> None:
        buckets = self.open(client, limits)
        reserved = min(tokens, buckets["tpm"].quota) if "tpm" in buckets else None
        self.taken[grant] = client, tokens, reserved
        buckets["rph"].add(1, now_ns)
        if reserved is not None:
            buckets["tpm"].add(reserved, now_ns)

    def end(self, grant: Grant, used: int | None, now_ns: int, *, refund: bool = False) -> None:
        client, _, reserved = self.taken.pop(grant)
        buckets = self.buckets[client]
        if refund:
            buckets["rph"].add(-1, now_ns)
        if reserved is not None and (refund or used is not None):
            buckets["tpm"].add((0 if refund else used or 0) - reserved, now_ns)


class Noted(Limiter):
    """The real one, which tells the books."""

    books: Books

    def admit(self, client: str, pool: str, tokens: int, now_ns: int) -> Grant | Refused:
        outcome = super().admit(client, pool, tokens, now_ns)
        if isinstance(outcome, Grant) and outcome is not FREE:
            self.books.take(outcome, client, self._pools[pool], tokens, now_ns)
        return outcome


class Verdict:
    """A future that is answered by hand, without an event loop."""

    def __init__(self) -> None:
        self.outcome: Any = None
        self.calls: list[Callable[[Any], None]] = []

    def done(self) -> bool:
        return self.outcome is not None

    def result(self) -> Any:
        return self.outcome

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self.calls.append(call)


class LateStore:
    """Decides as the limiter does, some time later."""

    def __init__(self, limiter: Limiter, clock: FakeClock, machine: "Requests") -> None:
        self.limiter, self.clock, self.machine = limiter, clock, machine
        self.asked: deque[tuple[Verdict, Exchange, str, str, int]] = deque()
        self.standings = limiter.standings

    def ask(self, client: str, pool: str, tokens: int) -> Verdict:
        verdict = Verdict()
        assert self.machine.beginning is not None
        self.asked.append((verdict, self.machine.beginning, client, pool, tokens))
        return verdict

    def answer(self) -> None:
        verdict, exchange, client, pool, tokens = self.asked.popleft()
        left = exchange.gone
        now_ns = self.clock.now_ns()
        verdict.outcome = self.limiter.admit(client, pool, tokens, now_ns)
        for call in verdict.calls:
            call(verdict)
        if left and isinstance(verdict.outcome, Grant) and verdict.outcome is not FREE:
            assert verdict.outcome.over, "nobody else would give it back"
            self.machine.books.end(verdict.outcome, None, now_ns, refund=True)

    def refused_locally(self, client: str, pool: str, tokens: int, now_ns: int) -> None:
        """It knows nothing beforehand."""

    def configure(self, pools: Any, shared: Any) -> None:
        """The limiter is told by itself."""


class Connection:
    """`wire.ClientConnection` without bytes: one request at a time, the others behind it."""

    stalled_since = None

    def __init__(self, machine: "Requests", client: str) -> None:
        self.machine, self.client = machine, client
        self.current: Exchange | None = None
        self.behind: deque[Exchange] = deque()

    def write(self, data: bytes) -> None:
        """Nobody reads it."""

    def unread_s(self, now: float) -> float:
        """And nobody is held to account for that."""
        return 0.0

    def ask(self, exchange: Exchange) -> None:
        if self.current is None:
            self.begin(exchange)
        else:
            self.behind.append(exchange)

    def begin(self, exchange: Exchange) -> None:
        self.current = exchange
        outer, self.machine.beginning = self.machine.beginning, exchange
        self.machine.pipeline.begin(exchange)
        self.machine.beginning = outer

    def answer(
        self, exchange: Exchange, status: int, body: bytes, extra: bytes = b"", kind: bytes = b""
    ) -> None:
        assert self.current is exchange
        exchange.status = status
        self.finish(exchange)

    def finish(self, exchange: Exchange) -> None:
        assert self.current is exchange
        self.current = None
        self.machine.ended(exchange)
        while self.behind and self.current is None:
            self.begin(self.behind.popleft())

    def leave(self) -> None:
        self.behind.clear()
        current, self.current = self.current, None
        if current is not None:
            self.machine.pipeline.cancel(current)
            self.machine.ended(current)


class Upstream:
    def cancel(self) -> None:
        """The client has left."""


class PaperPipeline(Pipeline):
    def send(self, exchange: Exchange) -> None:
        exchange.attempts += 1
        exchange.upstream = Upstream()  # type: ignore[assignment]  # of paper


class Requests(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.books = Books()
        self.pools = pools_of(200, 50_000)
        self.limiter = Noted(self.pools)
        self.limiter.books = self.books
        self.beginning: Exchange | None = None
        self.connections: list[Connection] = []
        self.views = {ModelName(name): view("LOADING", name=name) for name in MODELS}
        self.checks = 0
        self.late: LateStore | None = None

    @initialize(shared=st.booleans(), slots=st.integers(1, 3), queue=st.integers(0, 8))
    def begin(self, shared: bool, slots: int, queue: int) -> None:
        self.slots = slots
        retry = RetryBounds(max_retries=3, delay_s=0.0)
        bounds = Bounds(
            concurrent=4, queue_size=queue, queue_timeout_s=60.0, silence_s=60.0, retry=retry,
            breaker=BreakerBounds(failure_threshold=10**6),
        )  # fmt: skip
        self.admission = Admission(bounds, self.clock)
        self.admission.shares = {name: Share(one.weight, one.batch) for name, one in self.pools.items()}
        self.limits = Limits(self.limiter, self.pools, self.clock)
        if shared:
            self.late = LateStore(self.limiter, self.clock, self)
            self.limits.store = self.late  # type: ignore[assignment]  # of paper
        ties = Ties(
            poke=lambda *_: None,
            reject=self.reject,
            canary=lambda _: None,  # type: ignore[arg-type,return-value]  # never asked: the breaker stays closed
            later=lambda _, call: call(),
        )
        self.admission.open(self.views.values(), ties=ties, send=self.send)
        wiring = Wiring(
            views=self.views, default=ModelName("one"), trusted_proxies=(), limits=self.limits,
            max_body_bytes=10**9, max_connections=10, clock=self.clock,
        )  # fmt: skip
        self.rows = InFlight()
        self.pipeline = PaperPipeline(wiring, self.admission, self.rows)
        self.pipeline._identity.resolve = self.identify  # type: ignore[method-assign]  # by the connection
        self.pipeline._identity.name_refused = lambda _: None  # type: ignore[method-assign]  # not asked here
        self.pipeline.stages = tuple(
            stage if stage.number != 2 else type(stage)(2, stage.question, self.identify)
            for stage in self.pipeline.stages
        )
        self.pipeline.trace(on=False)
        for name in MODELS:
            self.publish(name, "READY")

    def reject(self, exchange: Exchange, error: LlmsupError) -> None:
        self.pipeline.reject(exchange, error)

    def send(self, exchange: Exchange) -> None:
        self.pipeline.send(exchange)

    def identify(self, exchange: Exchange) -> None:
        name = exchange.connection.client  # type: ignore[attr-defined]  # of paper
        exchange.client = Client(name, name.encode(), CLIENTS[name])

    def publish(self, name: str, state: str, more: int = 0, wanted: bool = True) -> None:
        before = self.views[ModelName(name)]
        self.checks += 1
        self.views[before.name] = new = view(
            state, name=name, port=1 if state == "READY" else None, slots=self.slots, checks=self.checks,
            generation=before.generation + more, wanted=wanted,
        )  # fmt: skip
        self.admission.on_view(new)

    # ---- what happens

    @property
    def active(self) -> list[Exchange]:
        return sorted(
            (one for gate in self.admission.gates.values() for one in gate.active), key=lambda one: one.id
        )

    @rule(
        client=st.sampled_from(sorted(CLIENTS)), model=st.sampled_from(("one", *MODELS)), large=st.booleans(),
        batch=st.booleans(), path=st.sampled_from([b"/completion"] * 4 + [b"/tokenize", b"/health"]),
        count=st.integers(1, 8), pipelined=st.booleans(),
    )  # fmt: skip
    def ask(
        self, client: str, model: str, large: bool, batch: bool, path: bytes, count: int, pipelined: bool
    ) -> None:
        """Some requests at once, on a connection for each of them or all on one."""
        connection = Connection(self, client)
        for _ in range(count):
            if not pipelined:
                connection = Connection(self, client)
            self.connections.append(connection)
            method = b"GET" if path == b"/health" else b"POST"
            exchange = Exchange(connection, method, path, FIELDS[batch], "")  # type: ignore[arg-type]  # of paper
            if method == b"POST":
                exchange.body = (LARGE if large else SMALL) % model.encode()
            connection.ask(exchange)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 9), count=st.integers(1, 50))
    def token(self, which: int, count: int) -> None:
        exchange = self.active[which % len(self.active)]
        if exchange.needs_slot:
            if exchange.meter is None:
                exchange.meter = Meter(exchange.path)
            exchange.count(TOKEN * count)

    @precondition(lambda self: self.active)
    @rule(
        which=st.integers(0, 9),
        told=st.booleans(),
        prompt=st.integers(0, 3000),
        status=st.sampled_from([200, 200, 400]),
    )
    def answered(self, which: int, told: bool, prompt: int, status: int) -> None:
        exchange = self.active[which % len(self.active)]
        exchange.upstream = None
        exchange.status = status
        if exchange.leased:
            exchange.served = True
            if status == 200 and told:
                exchange.usage = Usage(prompt, exchange.produced, prompt // 2)
        exchange.connection.finish(exchange)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 9), more=st.integers(0, 2))
    def lost(self, which: int, more: int) -> None:
        """And its llama-server is known to live, or replaced, or (mostly not) neither is known yet."""
        exchange = self.active[which % len(self.active)]
        exchange.upstream = None
        assert exchange.gate is not None
        exchange.gate.lost(exchange, UpstreamCrashed("gone"))
        if more:
            self.publish(exchange.gate.view.name, "READY", more - 1)

    @precondition(lambda self: self.rows.rows)
    @rule(which=st.integers(0, 30))
    def leaves(self, which: int) -> None:
        self.connections[which % len(self.connections)].leave()

    @precondition(lambda self: self.rows.rows)
    @rule(
        model=st.sampled_from(MODELS),
        state=st.sampled_from(["READY"] * 6 + ["BACKOFF", "FAILED"]),
        more=st.integers(0, 1),
    )
    def seen(self, model: str, state: str, more: int) -> None:
        self.publish(model, state, more)

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 1.0, 20.0, 61.0]))
    def passes(self, seconds: float) -> None:
        self.clock._now += seconds
        self.pipeline.sweep(self.clock.now())

    @precondition(lambda self: self.rows.rows)
    @rule(requests=st.sampled_from([20, 200, 1000]), tokens=st.sampled_from([3000, 50_000, 200_000]))
    def configured(self, requests: int, tokens: int) -> None:
        now_ns = self.clock.now_ns()
        self.pools = pools_of(requests, tokens)
        self.limits.configure(self.pools)
        for client, buckets in self.books.buckets.items():
            limits = self.pools[CLIENTS[client]]
            self.limiter.standings(client, limits.name, now_ns)  # so that all of them have changed now
            for limit in limits.limits:
                buckets[limit.name].add(0, now_ns)
                buckets[limit.name].quota = limit.rate.quota

    @precondition(lambda self: self.late is not None and self.late.asked)
    @rule(count=st.integers(1, 9))
    def decided(self, count: int) -> None:
        while self.late is not None and self.late.asked and count:
            self.late.answer()
            count -= 1

    def ended(self, exchange: Exchange) -> None:
        """As the wire does it; and the books are told what it should cost, by what has become of it."""
        grant = exchange.grant
        sent, produced = exchange.attempts > 0, exchange.produced
        self.pipeline.end(exchange)
        if not isinstance(grant, Grant) or grant is FREE:
            return
        now_ns = self.clock.now_ns()
        usage, guess = exchange.usage, prompt_of(len(exchange.body))
        if not sent or exchange.unserved:
            self.books.end(grant, None, now_ns, refund=True)
        elif usage is not None:
            self.books.end(grant, (usage.prompt or guess) + usage.completion, now_ns)
        elif produced:
            self.books.end(grant, guess + produced, now_ns)
        elif exchange.status not in {0, 200, LEFT}:
            self.books.end(grant, 0, now_ns)
        else:  # it was answered and did not say, or left before it was
            told = exchange.status != LEFT and exchange.path in WRITING
            self.books.end(grant, guess + CONTEXT_TOKENS if told else None, now_ns)
        exchange.body = b""

    # ---- what always holds

    @invariant()
    def nobody_is_forgotten(self) -> None:
        self.connections = [one for one in self.connections if one.current is not None]
        gates = self.admission.gates.values()
        asked = {exchange for _, exchange, *_ in self.late.asked} if self.late is not None else set()
        waiting = {one for gate in gates for one in gate.waiting}
        active = {one for gate in gates for one in gate.active}
        assert not active & waiting
        assert {one.connection.current for one in self.rows.rows} == self.rows.rows
        assert self.rows.rows == active | waiting | {one for one in asked if not one.gone}
        assert self.admission.waiting == len(waiting) <= self.admission.bounds.queue_size + len(active) + 9

    @invariant()
    def slots_are_counted(self) -> None:
        gates = self.admission.gates.values()
        for gate in gates:
            assert gate.leases == sum(one.leased for one in gate.active)
            assert gate._retrying == sum(one.retrying for one in gate.active)
        assert self.admission.leases == sum(gate.leases for gate in gates) <= 4

    @invariant()
    def turns_are_counted(self) -> None:
        for gate in self.admission.gates.values():
            turns, queue = gate.waiting, gate.waiting._queue
            assert turns._slotless == sum(not one.needs_slot for one in turns)
            assert turns._large == sum(one.large for one in turns)
            assert turns._reading <= {one for one in gate.active if one.large}
            accounts = [*queue._interactive.accounts.values(), *queue._batch.accounts.values()]
            assert sum(one.held for one in accounts) == sum(one.in_turn for one in gate.active) + len(
                queue._first
            )

    @invariant()
    def who_waits_waits_for_something(self) -> None:
        for gate in self.admission.gates.values():
            if gate.open and gate.waiting:
                assert gate._next() is None

    @invariant()
    def limits_are_right(self) -> None:
        now_ns = self.clock.now_ns()
        granted = [one for one in self.rows.rows if isinstance(one.grant, Grant) and one.grant is not FREE]
        assert set(self.books.taken) == {one.grant for one in granted}
        for client, buckets in self.books.buckets.items():
            account = self.limiter._accounts.get(client)
            assert (account.in_flight if account is not None else 0) == sum(
                one.client.name == client for one in granted
            )
            for one in self.limiter.standings(client, CLIENTS[client], now_ns):
                assert one.remaining == buckets[one.limit.name].remaining(now_ns), (client, one)

    def teardown(self) -> None:
        if not hasattr(self, "pipeline"):
            return
        while self.late is not None and self.late.asked:
            self.late.answer()
        while self.connections:
            self.connections.pop().leave()
            self.limits_are_right()
        assert not self.rows.rows
        assert (self.admission.waiting, self.admission.leases) == (0, 0)
        for gate in self.admission.gates.values():
            assert not gate.waiting
            assert not gate.active
            self.turns_are_counted()
        for account in self.limiter._accounts.values():
            assert account.in_flight == 0
        self.clock._now += 3_600_000  # what was used of a large quota comes back slowly in a small one
        for client, name in CLIENTS.items():
            for one in self.limiter.standings(client, name, self.clock.now_ns()):
                assert one.remaining == one.limit.rate.quota


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
