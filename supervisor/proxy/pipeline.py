"""The way of a request, as one list. Each stage asks one question; the first six decide at once.

A stage that objects raises; one that knows the answer returns it; `admission` may say "wait", and only
that makes a request leave this function before it is sent. Nothing here awaits.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from supervisor.clock import Clock
from supervisor.errors import (
    CallerError,
    Cancelled,
    LlmsupError,
    MisdirectedRequest,
    ModelLoading,
    ModelUnavailable,
    OriginNotAllowed,
    QueueFull,
    QueueTimeout,
    RequestTimeout,
    UpstreamCrashed,
)
from supervisor.events import InstanceView
from supervisor.keys.ring import Keyring
from supervisor.proxy import answers, asked, cached, ingress, permission, places, route, stages
from supervisor.proxy.admission import Admission
from supervisor.proxy.console import Console, ConsoleRules
from supervisor.proxy.cors import Cors, CorsRules
from supervisor.proxy.decision import Answer, Decision
from supervisor.proxy.heads import Heads
from supervisor.proxy.identity import IPV6_PREFIX, Identity, Rules
from supervisor.proxy.inflight import LEFT, Exchange, InFlight
from supervisor.proxy.limits import Limits, RateLimited
from supervisor.proxy.meters import Meters
from supervisor.proxy.origins import Origins
from supervisor.proxy.scrapes import Gather, Scrapes
from supervisor.proxy.scrapes import checker as scrape_checker
from supervisor.proxy.server_names import ServerNames
from supervisor.proxy.upload import BodyBudget
from supervisor.proxy.wire import ClientConnection
from supervisor.types import ModelName

# Counted, they would use up what whoever sits at that browser may ask.
OF_A_PAGE = (OriginNotAllowed, MisdirectedRequest)
log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")

Decide = Callable[[Exchange], Decision]
Tell = Callable[[Exchange, float], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A numbered question. ``decide`` is None where the answer comes as events, not as a decision."""

    number: int
    question: str
    decide: Decide | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What the pipeline is made of; composed in `app`."""

    views: Mapping[ModelName, InstanceView]
    default: ModelName
    aliases: Mapping[str, ModelName] = field(default_factory=dict)
    trusted_proxies: tuple[str, ...]
    limits: Limits
    max_body_bytes: int
    max_connections: int
    clock: Clock
    cors: CorsRules | None = None
    names: ServerNames = field(default_factory=ServerNames)
    continuing: bool = True  # streams that died with their server go on with the next
    keyring: Keyring | None = None
    ipv6_prefix: int = IPV6_PREFIX
    require_key: bool = False
    console: ConsoleRules | None = None  # None: the operator has no way in on the port
    trusted_uids: frozenset[int] = frozenset()
    gather: Gather | None = None  # who answers /metrics; None: nobody
    metrics_on_loopback: bool = False
    tell: tuple[Tell, ...] = ()  # who is told of each request that has ended, and when it did


def identity_of(wiring: Wiring) -> Identity:
    rules = Rules(
        trusted=wiring.trusted_proxies,
        trusted_uids=wiring.trusted_uids,
        ipv6_prefix=wiring.ipv6_prefix,
        require_key=wiring.require_key,
    )
    keyring = wiring.keyring
    return Identity(rules, keyring if keyring is not None else Keyring(None, wiring.clock.wall))


class Pipeline:
    """Handles every request of every connection (`wire.Handler`)."""

    def __init__(self, wiring: Wiring, admission: Admission, in_flight: InFlight) -> None:
        self.max_body_bytes = wiring.max_body_bytes
        self.max_connections = wiring.max_connections
        self.default = wiring.default
        self.now = wiring.clock.now()
        self.budget = BodyBudget()
        self.heads = Heads()
        self.connections: set[ClientConnection] = set()
        self.in_flight = in_flight
        self.meters = Meters()
        self.tell = wiring.tell
        self._admission = admission
        self._clock = wiring.clock
        self._limits = wiring.limits
        self._identity = identity_of(wiring)
        self._origins = Origins(wiring.names, wiring.cors.origins if wiring.cors is not None else ())
        check = ingress.checker(
            scrape_checker(self._identity, self._origins, on_loopback=wiring.metrics_on_loopback)
        )
        ask: Decide = Cors(wiring.cors).before(check) if wiring.cors is not None else check
        self._console = self._console_of(wiring)
        self._of_heads = (ask, self._identity.resolve, permission.of_scope, wiring.limits.look)
        choose = route.chooser(admission.offered, self._default, wiring.aliases)
        ask = self._console.before(ask) if self._console is not None else ask
        self.stages = (
            Stage(1, "what was asked?", self._origins.before(ask)),
            Stage(2, "who asks?", self._identity.resolve),
            Stage(
                3,
                "of which model?",
                asked.before(choose, look=wiring.limits.look, continuing=wiring.continuing),
            ),
            Stage(4, "may they?", permission.before(wiring.limits.decide)),
            Stage(5, "answered already?", self._own_answers(wiring)),
            Stage(6, "whose turn is it?", admission.decide),
            Stage(7, "over which connection?", self.send),
            Stage(8, "stream it back", None),  # `relay`, fed by the connection that 7 chose
        )
        self.trace(on=False)
        wiring.limits.open(self._go_on)

    def _console_of(self, wiring: Wiring) -> Console | None:
        if wiring.console is None:
            return None
        return Console(
            wiring.console,
            identity=self._identity,
            origins=self._origins,
            in_flight=self.in_flight,
            clock=wiring.clock,
            reject=self.reject,
        )

    def _own_answers(self, wiring: Wiring) -> Decide:
        started = int(wiring.clock.wall().timestamp())
        look = cached.answerer(wiring.views, self._default, self._draining, started)
        return look if wiring.gather is None else Scrapes(wiring.gather, self._labels).before(look)

    def trace(self, *, on: bool) -> None:
        """Whether every stage's decision goes to the log."""
        self._tracing = on
        asked = [stage for stage in self.stages if stage.decide is not None]
        self._decisions = tuple(
            stages.told(stage.number, stage.question, stage.decide) if on else stage.decide
            for stage in asked
            if stage.decide is not None
        )
        self._behind_limits = self._decisions[4:]

    def _default(self) -> ModelName:
        return self.default

    def _draining(self) -> bool:
        return self._admission.draining

    def soon(self, work: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(work)

    def look(self, exchange: Exchange) -> LlmsupError | None:
        """What the head alone decides, before the body is taken: it is decided again when that is there."""
        try:
            self._origins.check(exchange)
            ingress.normalise(exchange)
            if self._console is None or not self._console.has(exchange):
                for decide in self._of_heads:
                    if decide(exchange) is not None:
                        break  # answered without a look at its body
        except LlmsupError as error:
            return error
        return None

    def turn_away(self, exchange: Exchange, error: LlmsupError) -> None:
        self.in_flight.add(exchange)
        exchange.received_at = self._clock.now()
        self.reject(exchange, error)

    def begin(self, exchange: Exchange) -> None:
        """Take a request through the stages; it is answered, sent or waiting when this returns."""
        self.in_flight.add(exchange)
        exchange.received_at = self._clock.now()
        self._decide(exchange, self._decisions)

    def _go_on(self, exchange: Exchange, decide: Callable[[], Decision]) -> None:
        """Stage 4 had to wait for somebody else's word: it decides now, and then those behind it."""
        self._decide(exchange, (lambda _: decide(), *self._behind_limits))

    def _decide(self, exchange: Exchange, decisions: tuple[Decide, ...]) -> None:
        try:
            for decide in decisions:
                decision = decide(exchange)
                if decision is not None:
                    if isinstance(decision, Answer):
                        self._answer(exchange, decision)
                    return
        except LlmsupError as error:
            self.reject(exchange, error)
        except Exception as error:  # a defect of ours must not take the connection's other requests along
            log.exception("request failed", **exchange.names)
            self.reject(exchange, LlmsupError(f"llmsup failed: {type(error).__name__}"))

    def _answer(self, exchange: Exchange, answer: Answer) -> None:
        exchange.connection.answer(exchange, answer.status, answer.body, self._labels(exchange), answer.kind)

    def send(self, exchange: Exchange) -> None:
        """Stage 7, which hands over to 8."""
        assert exchange.gate is not None  # noqa: S101  stage 3 set it
        exchange.gate.pool.send(exchange)

    def reject(self, exchange: Exchange, error: LlmsupError) -> None:
        """Answer with the error; in the middle of a stream, end that with it."""
        if exchange.gone:
            return
        if error.status >= 500:
            self.in_flight.failed += 1
        if exchange.gate is not None:
            exchange.gate.leave(exchange)
        else:  # refused before anybody asked who it is
            self._identity.name_refused(exchange)
        if (
            isinstance(error, CallerError)
            and not isinstance(error, OF_A_PAGE)
            and exchange.grant is None
            and not exchange.attempts
        ):
            error = self._limits.charge_refusal(exchange.client, exchange.path) or error
        if exchange.stream is not None:
            exchange.stream.cut(_as_end(error))
            return
        exchange.unserved, exchange.own_fault = True, isinstance(error, CallerError)
        extra = self._labels(exchange) + _when(error) + answers.challenge(error)
        exchange.connection.answer(exchange, error.status, answers.error_body(error, exchange.id), extra)

    def refusal(self, peer: str, error: LlmsupError) -> bytes:
        """The whole answer to what never became a request: it has an id all the same, to be asked about."""
        client = self._identity.at(peer)
        if isinstance(error, CallerError):
            error = self._limits.charge_refusal(client, b"") or error
        self.meters.refuse(error.status)
        request_id = self.in_flight.new_id()
        extra = answers.labels(request_id, client.label) + _when(error)
        return answers.response(error.status, answers.error_body(error, request_id), keep=False, extra=extra)

    def _labels(self, exchange: Exchange) -> bytes:
        retries = max(0, exchange.attempts - 1)
        return answers.labels(exchange.id, exchange.client.label, retries, exchange.queue_ms) + exchange.lines

    def cancel(self, exchange: Exchange) -> None:
        """The client has left: stop the work, wherever it is."""
        exchange.status = LEFT
        upstream, exchange.upstream = exchange.upstream, None
        if upstream is not None:
            upstream.cancel()

    def cancel_by_id(self, request_id: bytes, number: int | None = None) -> int:
        """The operator's wish: end that request. How many there were, 0 or 1.

        Raises:
            Conflict: several have that id, which clients may choose, and ``number`` does not say which is meant.
        """
        for exchange in self.in_flight.named(request_id, number):
            log.warning("request cancelled", **exchange.names)
            error = Cancelled("an operator has cancelled this request")
            if exchange.upstream is not None:
                exchange.upstream.give_up(error)
            else:
                self.reject(exchange, error)
            return 1
        return 0

    def end(self, exchange: Exchange) -> None:
        if exchange.metered:
            self._account(exchange, self._clock.now())
        self._limits.end(exchange)
        self.in_flight.remove(exchange)
        if exchange.gate is not None:
            exchange.gate.leave(exchange)

    def _account(self, exchange: Exchange, now: float) -> None:
        """Count the request, and tell of it; no defect there may keep it from its end."""
        try:
            self.meters.count(exchange, now)
            for tell in self.tell:
                tell(exchange, now)
            if self._tracing:
                stages.ended(exchange, now)
        except Exception:
            log.exception("request not accounted for", **exchange.names)

    def sweep(self, now: float) -> None:
        """Once a second: everything that has a deadline. No request has a timer of its own."""
        self.now = now
        self._admission.sweep(now)
        self._limits.sweep()
        if self._console is not None:
            self._console.sweep(now)
        unfinished = []
        for connection in list(self.connections):
            connection.sweep(now)
            if connection.unfinished:
                unfinished.append(connection)
        most = places.bound(self.max_connections)
        if len(unfinished) > most:
            self._thin_out(unfinished, most, now)

    def _thin_out(self, unfinished: list[ClientConnection], most: int, now: float) -> None:
        """No address keeps more than its part of all places with requests that do not come; proxies have many clients."""
        gone = [one for one in places.crowding(unfinished, most, now) if not self._identity.trusts(one.peer)]
        if gone:
            log.warning("requests that do not come", address=gone[0].peer, ended=len(gone))
        for one in gone:
            one.make_way(RequestTimeout(f"{most} requests of this address are incomplete already"))

    def make_room(self, newcomer: ClientConnection) -> None:
        """Those leave who can be spared; else the newcomer has one of the last places, or none."""
        others = [one for one in self.connections if one is not newcomer]
        leaving = places.to_go(others, places.bound(self.max_connections), self._clock.now())
        for one in leaving:
            if one.idle:
                one.close_idle()
            else:
                one.make_way(RequestTimeout("the request was incomplete, and others need its place"))
        over = len(self.connections) - self.max_connections
        if leaving or over <= places.SPARE:
            newcomer.spare = not leaving
            return
        if over == places.SPARE + 1:
            log.warning("no connection to spare", connections=len(self.connections))
        newcomer.make_way(self._full())

    def _full(self) -> QueueFull:
        return QueueFull(f"{self.max_connections} connections are open already", hint="try again later")

    def spared(self, exchange: Exchange) -> LlmsupError | None:
        for_all = exchange.fields.key is not None or exchange.target in cached.HEALTH
        return None if for_all else self._full()

    def begin_spare(self, exchange: Exchange) -> None:
        error = self.spared(exchange)
        if error is None:
            self.begin(exchange)
        else:
            exchange.keep = False
            self.turn_away(exchange, error)

    def shut(self) -> None:
        """Close idle connections now, the others after their current answer."""
        for connection in list(self.connections):
            connection.shut()


def _when(error: LlmsupError) -> bytes:
    """The header lines that say when to ask again."""
    return error.lines if isinstance(error, RateLimited) else answers.retry_after(error)


def _as_end(error: LlmsupError) -> LlmsupError:
    """Why an answer ends in the middle: that nobody could go on with it, whatever kept them (CONTRACT)."""
    if isinstance(error, ModelUnavailable | ModelLoading | QueueTimeout | QueueFull):
        return UpstreamCrashed(f"llama-server died in the middle of this answer, and {error.message}")
    return error
