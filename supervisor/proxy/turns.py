"""Whose turn it is at one gate: the fair queue, what each request costs its client, and one large prompt at a time.

A request's cost is charged as it becomes known (`ratelimit.fairqueue`): a guess at its prompt when it goes, its
answer as it flows, and at its end what it really was, cached tokens aside. What has flowed is looked at when a turn is
decided and when the request ends, not at each token: in between nobody asks. And while nobody waits nobody is counted:
who goes then takes nothing from anybody. What is at the child when the first one has to wait is counted then, with what it
has had so far.

A large prompt that is not in the cache keeps llama-server busy for seconds, in which nobody else's answer gets on.
So while one is being read, a second one waits where others wait that are not large.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from supervisor.proxy.inflight import Exchange
from supervisor.proxy.prefills import Prefills
from supervisor.ratelimit.fairqueue import Crowd, FairQueue, cost
from supervisor.ratelimit.tokens import prompt_of


@dataclass(frozen=True, slots=True)
class Share:
    """Of those who wait. ``weight``: how much, beside others; ``batch``: after those who are not."""

    weight: float = 1.0
    batch: bool = False


EQUAL = Share()


class Turns:
    """What waits for one model, and what has gone. ``shares`` (by pool) and ``active`` (what is at the child) may
    change any time.
    """

    def __init__(self, shares: Mapping[str, Share], active: Collection[Exchange]) -> None:
        self._shares = shares
        self._active = active
        self._queue: FairQueue[Exchange] = FairQueue()
        self._prefills = Prefills()
        self.size = 0  # how many wait: asked for each request, so without a call
        self._slotless = 0  # of them
        self._large = 0  # likewise
        self._reading: set[Exchange] = set()  # large ones that have gone and have no token yet

    def __repr__(self) -> str:
        return f"<Turns {self._queue}>"

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._queue)

    # ---- what waits

    def count(self, exchange: Exchange) -> int:
        """How many its client has waiting here."""
        return self._queue.waiting_of(exchange.client.name)

    def longest(self) -> Crowd[Exchange]:
        return self._queue.longest()

    def ahead_of(self, newcomer: Exchange) -> int:
        """How many will about go before it: of each client as many as it has itself, and it."""
        return min(len(self._queue), (self.count(newcomer) + 1) * self._queue.clients)

    def add(self, exchange: Exchange, *, first: bool = False) -> None:
        """``first``: it comes back from a server that died, and goes before all others."""
        if not self.size:
            for one in self._active:
                if one.leased and not one.in_turn:
                    self._serve(one)
        share = self._share(exchange)
        add = self._queue.add_first if first else self._queue.add
        add(exchange, exchange.client.name, weight=share.weight, batch=share.batch)
        exchange.large = exchange.needs_slot and self._prefills.large(exchange.path, exchange.body)
        self._count(exchange, 1)

    def remove(self, exchange: Exchange) -> bool:
        """It waits no more and does not go. False: it did not wait."""
        if not self._queue.remove(exchange):
            return False
        self._count(exchange, -1)
        return True

    def clear(self) -> list[Exchange]:
        self.size = self._slotless = self._large = 0
        return self._queue.clear()

    def _count(self, exchange: Exchange, by: int) -> None:
        self.size += by
        self._slotless += by * (not exchange.needs_slot)
        self._large += by * exchange.large

    def _share(self, exchange: Exchange) -> Share:
        share = exchange.share
        if share is None:
            share = self._shares.get(exchange.client.pool, EQUAL)
            if exchange.fields.batch and not share.batch:
                share = Share(share.weight, batch=True)
            exchange.share = share
        return share

    def in_turn(self, *, free: bool) -> Iterator[Exchange]:
        """Who may go, in order. ``free``: there is a slot."""
        if not free and not self._slotless:
            return
        for exchange in self._active:
            self._flow(exchange)
        for exchange in self._queue.in_turn():
            if (free or not exchange.needs_slot) and not (exchange.large and self._one_at_a_time):
                yield exchange

    @property
    def _one_at_a_time(self) -> bool:
        """Whether a large one is being read, and others wait that are not large."""
        return bool(self._reading) and self._large < len(self._queue)

    def passes(self, newcomer: Exchange) -> bool:
        """Whether it may go past those that wait, none of whom may go: not if it is held for what holds them."""
        return not (
            self._one_at_a_time and newcomer.needs_slot and self._prefills.large(newcomer.path, newcomer.body)
        )

    # ---- what goes

    def go(self, exchange: Exchange) -> None:
        """It goes to the child, from the queue or without having waited."""
        queue = self._queue
        if not self.size:
            if exchange.needs_slot:
                exchange.large = self._prefills.large(exchange.path, exchange.body)
        elif exchange in queue:
            queue.take(exchange)
            self._count(exchange, -1)
            exchange.in_turn = True
            self._charge_prompt(exchange)
        elif exchange.needs_slot:
            exchange.large = self._prefills.large(exchange.path, exchange.body)
            self._serve(exchange)
        if exchange.large:
            self._reading.add(exchange)

    def _serve(self, exchange: Exchange) -> None:
        """It went without having waited, and counts from now on."""
        share = self._share(exchange)
        self._queue.dispatched(exchange.client.name, weight=share.weight, batch=share.batch)
        exchange.in_turn = True
        self._charge_prompt(exchange)

    def _charge_prompt(self, exchange: Exchange) -> None:
        if not exchange.charged and exchange.needs_slot:
            self._charge(exchange, cost(prompt_of(len(exchange.body)), 0))

    def first_token(self, exchange: Exchange) -> bool:
        """Its prompt has been read. True: somebody may have waited for that."""
        if exchange not in self._reading:
            return False
        self._reading.discard(exchange)
        return True

    def over(self, exchange: Exchange) -> None:
        """It is not at the child any more."""
        usage = exchange.usage
        if exchange.large:
            self._reading.discard(exchange)
            if usage is not None:
                self._prefills.served(exchange.path, exchange.body)
        if not exchange.in_turn:
            return
        self._flow(exchange)
        exchange.in_turn = False
        if usage is not None:
            self._charge(exchange, cost(usage.prompt - usage.cached, usage.completion) - exchange.charged)
        self._queue.ended(exchange.client.name, batch=self._share(exchange).batch)

    def forget_cache(self) -> None:
        """Another generation: its prompt cache is empty."""
        self._prefills.forget()

    def _flow(self, exchange: Exchange) -> None:
        """Charge what has come of its answer since it was looked at last."""
        meter = exchange.meter
        if exchange.in_turn and meter is not None and meter.tokens > exchange.flowed:
            tokens, exchange.flowed = meter.tokens - exchange.flowed, meter.tokens
            self._charge(exchange, cost(0, tokens))

    def _charge(self, exchange: Exchange, weighted: float) -> None:
        exchange.charged += weighted
        self._queue.charge(exchange.client.name, weighted, batch=self._share(exchange).batch)
