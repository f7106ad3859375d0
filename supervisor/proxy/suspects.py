"""Who brought llama-server down? Of the requests that were inside at a crash, the one that does it again alone.

A crash opens a case, with all that were inside. Each goes to the child once more, alone: it waits until the child is
empty, and nothing new is let in beside it. Who kills again is found: its request is quarantined, for everybody if nothing
else was there, for its client alone otherwise; its client has a strike (`bans`), and the others of the case are no
suspects any more. Who gets its answer is proven innocent. Who leaves before that proves nothing: when all others have
been proven, the case is closed with half a strike, shared by those that have not. Also inside is who left a moment ago: its
work may go on (FAULTS 9).

Everybody else waits meanwhile, so the time for that is bounded three times over:

* a suspect has the child to itself until its first token, or for `ALONE_S`. Poison takes effect when a prompt, a
  grammar or parameters are read, which is before; what a long answer does later is tried with others beside it;
* answers that are there already are waited for `DRAIN_S`; then the suspect goes beside them;
* after a crash newcomers wait for suspects for `HOLD_S` in all: many suspects, of one client or of many, hold up nobody for
  longer. What is tried after that is tried one at a time, with others beside it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from supervisor.clock import Clock
from supervisor.errors import ClientBanned, LlmsupError
from supervisor.events import Death, Inside
from supervisor.proc.causes import crashed
from supervisor.proxy.bans import BAN_S, DOUBT, Bans
from supervisor.proxy.inflight import LEFT, Exchange
from supervisor.proxy.quarantine import Quarantine, fingerprint
from supervisor.proxy.retry import DEADLY, quarantined
from supervisor.types import Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")

ALONE_S = 10.0  # a large prompt is read in that time by a small machine; see above
DRAIN_S = 3.0  # most short answers are over by then
HOLD_S = 20.0  # a third of the shortest time that clients commonly wait for an answer
LEFT_S = 10.0  # a step of the child's takes no longer; then the work of who has left is dropped
MAX_LEFT = 64  # some 200 bytes each
MAX_CASES = 16
HASHED_BYTES = 1 << 20  # of a body whose client has left: a larger one is not worth the time
MAX_DEATHS = 8


@dataclass(frozen=True, slots=True)
class Left:
    """A request that was at the child and left without its answer. ``known``: its fingerprint, b"" for none."""

    client: str
    generation: Generation
    at: float
    known: bytes
    crashes: int


@dataclass(slots=True, eq=False)
class Case:
    """A crash whose cause is not known. ``open``: who is to be tried, or proven by its answer; ``unproven``: clients
    that have left without either.
    """

    open: set[Exchange]
    unproven: set[str] = field(default_factory=set)


def _nobody(client: str, seconds: float) -> None:
    """Who is told of a ban where nobody wants to know."""


class Suspects:
    """Of one gate. ``alone``: who is being tried now (the gate says when it is not at the child any more); ``cases``: none, while nobody is suspected of anything; ``told``: of each client whose door closes."""

    def __init__(
        self, quarantine: Quarantine, bans: Bans, clock: Clock, told: Callable[[str, float], None] = _nobody
    ) -> None:
        self.alone: Exchange | None = None
        self._quarantine = quarantine
        self._bans = bans
        self._clock = clock
        self._told = told
        self.cases: deque[Case] = deque()
        self._left: deque[Left] = deque(maxlen=MAX_LEFT)
        self._judged: deque[Generation] = deque(maxlen=MAX_DEATHS)
        self._trial: Exchange | None = (
            None  # `alone`, also when its connection has broken and no more is known
        )
        self._exclusive = True  # nothing new is let in beside `alone`
        self._company = False  # somebody was inside already when it went
        self._alone_since = 0.0
        self._drain_since: float | None = None
        self._hold_until: float | None = None

    def __repr__(self) -> str:
        return f"<Suspects {len(self._untried())} to be tried, {len(self.cases)} cases>"

    # ---- who may go

    def check(self, exchange: Exchange) -> None:
        """A newcomer. Raises ClientBanned, Quarantined."""
        bans, quarantine = self._bans, self._quarantine
        if bans and (left_s := bans.left_s(exchange.client.name, self._clock.now())):
            raise banned(left_s)
        if quarantine and quarantine.holds(
            exchange.path, exchange.body, self._clock.now(), exchange.client.name
        ):
            raise quarantined()

    def may_go(self, exchange: Exchange, inside: int) -> bool:
        """Whether it may go to the child now, at which so many are already. Not to be asked while there are no cases."""
        untried, now = self._untried(), self._clock.now()
        if self.alone is not None:
            return not (self._exclusive or exchange in untried)
        if not untried:
            return True
        if self._hold_until is None:
            self._hold_until = now + HOLD_S
        held = now < self._hold_until
        if exchange not in untried:
            return not held
        if not self._turn_of(exchange, untried, now):
            return False
        if not inside or not held:
            return True
        if self._drain_since is None:
            self._drain_since = now
        return now - self._drain_since >= DRAIN_S

    def _turn_of(self, exchange: Exchange, untried: Iterable[Exchange], now: float) -> bool:
        """Who has done it before goes last: the others are answered without another crash."""
        blamed = self._bans.blamed
        if not blamed(exchange.client.name, now):
            return True
        return all(blamed(one.client.name, now) for one in untried)

    def _untried(self) -> set[Exchange]:
        return {one for case in self.cases for one in case.open if one.crashes and not one.tried}

    def went(self, exchange: Exchange, inside: int) -> None:
        """It goes to the child, at which so many are already."""
        if not exchange.crashes or exchange.tried:
            return
        now = self._clock.now()
        self._exclusive = self._hold_until is None or now < self._hold_until
        self.alone, self._trial = exchange, exchange if self._exclusive else None
        self._company, self._alone_since, self._drain_since = inside > 0, now, None

    def first_token(self, exchange: Exchange) -> bool:
        """Its answer has begun. True: others may go now."""
        if exchange is not self.alone:
            return False
        self._end_trial(exchange)
        return True

    def _end_trial(self, exchange: Exchange) -> None:
        exchange.tried = True
        self.alone = self._trial = None

    def sweep(self, now: float) -> None:
        if self.alone is not None and now - self._alone_since >= ALONE_S:
            self._end_trial(self.alone)

    # ---- what becomes of them

    def ended(self, exchange: Exchange, *, was_inside: bool) -> None:
        """It is over: answered, given up, or its client has left. ``was_inside``: it was at the child until now."""
        if exchange is self._trial and exchange.served:
            self._trial = None
        if was_inside and not exchange.served:
            known = b""
            if len(exchange.body) <= HASHED_BYTES:
                known = fingerprint(exchange.path, exchange.body)
            name, now = exchange.client.name, self._clock.now()
            self._left.append(Left(name, exchange.sent_to, now, known, exchange.crashes))
        for case in [case for case in self.cases if exchange in case.open]:
            case.open.discard(exchange)
            if not exchange.served and (was_inside or exchange.status == LEFT):
                case.unproven.add(exchange.client.name)
            self._close_if_done(case)

    def _close_if_done(self, case: Case) -> None:
        if case.open:
            return
        self.cases.remove(case)
        for client in case.unproven:
            self._strike(client, DOUBT / len(case.unproven))

    def inside(self, generation: Generation, rows: Iterable[Exchange]) -> Inside:
        """Who was at that generation, with those that have just left it. ``rows``: who is, or waits to be asked again."""
        clients = [one.client.name for one in rows] + [one.client for one in self._lately(generation)]
        return Inside(len(clients), len(set(clients)))

    def _lately(self, generation: Generation) -> list[Left]:
        since = self._clock.now() - LEFT_S
        return [one for one in self._left if one.generation == generation and one.at >= since]

    def died(self, death: Death, rows: Iterable[Exchange]) -> None:
        """A death has become known. ``rows``: who was at that generation."""
        trial, company = self._trial, self._company
        self.alone = self._trial = self._drain_since = self._hold_until = None
        if death.generation in self._judged or not crashed(death.cause, death.exit_code):
            return
        self._judged.append(death.generation)
        inside, left = list(rows), self._lately(death.generation)
        for one in inside:
            one.crashes += 1
            one.tried = False
        clients = {one.client.name for one in inside} | {one.client for one in left}
        if not clients:
            return
        if len(inside) == 1 and not left and inside[0].crashes >= DEADLY:
            self._convict(inside[0], death, everybody=True)
        elif len(left) == 1 and not inside and left[0].crashes and left[0].known:
            self._quarantine.add(left[0].known, self._clock.now())
            self._strike(left[0].client, 1.0)
        elif trial in inside and company and trial is not None:
            self._convict(trial, death, everybody=False)
            _excuse(one for one in inside if one is not trial)
        else:
            only = next(iter(clients)) if len(clients) == 1 else ""
            if only and self._bans.blamed(only, self._clock.now()):
                self._strike(only, 1.0)
            else:
                self._open(Case(set(inside), {one.client for one in left}))

    def _open(self, case: Case) -> None:
        self.cases.append(case)
        self._close_if_done(case)
        if len(self.cases) > MAX_CASES:
            _excuse(self.cases.popleft().open)

    def _convict(self, exchange: Exchange, death: Death, *, everybody: bool) -> None:
        """It did it. Whoever else was suspected of the same is not any more."""
        client = exchange.client.name
        log.error(
            "request quarantined", **exchange.names, client=client, cause=death.cause, everybody=everybody
        )
        known = fingerprint(exchange.path, exchange.body)
        self._quarantine.add(known, self._clock.now(), "" if everybody else client)
        exchange.convicted = True
        for case in [case for case in self.cases if exchange in case.open]:
            self.cases.remove(case)
            _excuse(case.open - {exchange})
        self._strike(client, 1.0 if everybody else DOUBT)

    def _strike(self, client: str, weight: float) -> None:
        if self._bans.strike(client, self._clock.now(), weight):
            log.error("client banned", client=client, seconds=BAN_S)
            self._told(client, BAN_S)

    def verdict(self, exchange: Exchange) -> LlmsupError | None:
        """Why it is not asked again, if it is for what it or its client has done."""
        if exchange.convicted:
            return quarantined()
        left_s = self._bans.left_s(exchange.client.name, self._clock.now()) if self._bans else 0.0
        return banned(left_s) if left_s else None


def _excuse(exchanges: Iterable[Exchange]) -> None:
    """That crash was somebody else's: it costs them no try either."""
    for one in exchanges:
        one.crashes -= 1
        one.excused += 1


def banned(left_s: float) -> ClientBanned:
    return ClientBanned(
        "requests of yours have brought llama-server down again and again", retry_after_s=left_s
    )
