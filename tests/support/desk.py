"""One gate at a desk: a clock that stands, no socket, and a record of what it did."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

from supervisor.errors import LlmsupError, UpstreamCrashed
from supervisor.events import Death, Endpoint
from supervisor.proxy.admission import Admission
from supervisor.proxy.bounds import Bounds, RetryBounds
from supervisor.proxy.breaker import BreakerBounds
from supervisor.proxy.decision import WAIT
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Client, Exchange
from supervisor.proxy.ties import Ties
from supervisor.types import Generation
from tests.support.proxyrig import DEMO, view

FIELDS = read_request((), small=True)
LOST = UpstreamCrashed("gone")
AT_ONCE = RetryBounds(max_retries=2, delay_s=0.0)
NEVER_OPEN = BreakerBounds(failure_threshold=1_000_000)


class Desk:
    """One gate with a clock that stands, and a record of what it did."""

    def __init__(
        self,
        *,
        slots: int = 2,
        concurrent: int = 10,
        queue_size: int = 3,
        retry: RetryBounds = AT_ONCE,
        breaker: BreakerBounds = NEVER_OPEN,
    ) -> None:
        self.time = 1000.0
        self.sent: list[Exchange] = []
        self.refused: dict[Exchange, str] = {}
        self.pokes = 0
        bounds = Bounds(
            concurrent=concurrent,
            queue_size=queue_size,
            queue_timeout_s=60.0,
            silence_s=60.0,
            retry=retry,
            breaker=breaker,
        )
        self.admission = Admission(bounds, SimpleNamespace(now=lambda: self.time))
        self.slots = slots
        self.checks = 0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.canaries: list[bool] = []  # what the next ones will be told
        self.wanted: list[str] = []  # models that were asked to be loaded
        ties = Ties(self._poke, self._reject, self._canary, later=self._later, wanted=self.wanted.append)
        self.admission.open([view("LOADING")], ties=ties, send=self.sent.append)
        self.gate = self.admission.gates[DEMO]

    def ready(self, generation: int = 1) -> None:
        self.admission.on_view(view(port=1, generation=generation, slots=self.slots, checks=self.checks))

    def died(self, generation: int, cause: str) -> None:
        """What the instance publishes when a generation has ended and the next is on its way."""
        death = Death(datetime.now(UTC), Generation(generation), cause, None, 1, 1.0, "")
        self.admission.abort(DEMO, Generation(generation))
        self.admission.on_view(view("STARTING", generation=generation + 1, last_death=death))

    async def _canary(self, _: Endpoint) -> bool:
        return self.canaries.pop(0)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        if delay_s:
            self.timers.append((self.time + delay_s, call))
        else:
            call()

    def wait(self, seconds: float) -> None:
        """Time passes, and what was to be called by then is."""
        self.time += seconds
        due = [call for at, call in self.timers if at <= self.time]
        self.timers = [(at, call) for at, call in self.timers if at > self.time]
        for call in due:
            call()

    def _poke(self, name: str, generation: int) -> None:
        self.pokes += 1

    def _reject(self, exchange: Exchange, error: LlmsupError) -> None:
        self.refused[exchange] = error.code
        self.gate.leave(exchange)

    def ask(self, *, needs_slot: bool = True, body: bytes = b"", client: str = "anonymous") -> Exchange:
        exchange = Exchange(SimpleNamespace(current=None, unread_s=lambda _: 0.0), b"POST", b"/", FIELDS, "")
        exchange.body, exchange.client = body, Client(client, client.encode())
        exchange.gate, exchange.needs_slot = self.gate, needs_slot
        try:
            if self.admission.decide(exchange) is not WAIT:
                self.sent.append(exchange)
        except LlmsupError as error:
            self._reject(exchange, error)
        return exchange

    def attempt(self, exchange: Exchange) -> None:
        exchange.attempts += 1
        self.gate.lost(exchange, LOST)
