"""Who is to blame for a crash: the requests that were inside, asked again one after the other until one kills again.

Those that were inside at a crash go alone, so that the one that brings the child down is found, and no other is
blamed for it (FAULTS 9).
"""

from collections.abc import Iterable

import structlog

from supervisor.clock import Clock
from supervisor.events import Death
from supervisor.proc.causes import crashed
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.quarantine import Quarantine
from supervisor.proxy.retry import DEADLY, quarantined
from supervisor.types import Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


class Suspects:
    """Of one gate."""

    def __init__(self, quarantine: Quarantine, clock: Clock) -> None:
        self._quarantine = quarantine
        self._clock = clock
        self._inside = 0  # at the child now, that were inside at a crash

    def __repr__(self) -> str:
        return f"<Suspects {self._inside} at the child>"

    def check(self, exchange: Exchange) -> None:
        """Raises Quarantined: it has killed llama-server before."""
        if self._quarantine and self._quarantine.holds(exchange.path, exchange.body, self._clock.now()):
            raise quarantined()

    def may_go(self, exchange: Exchange) -> bool:
        """Whether one that is asked again may go now."""
        return not (exchange.crashes and self._inside)

    def went(self, exchange: Exchange) -> None:
        self._inside += exchange.crashes > 0

    def left(self, exchange: Exchange) -> None:
        self._inside -= exchange.crashes > 0

    def blame(self, exchange: Exchange, death: Death | None) -> None:
        """Whether the generation it was sent to crashed, as far as is known by now."""
        if death is None or death.generation != exchange.sent_to or not crashed(death.cause, death.exit_code):
            return
        exchange.crashes += 1
        exchange.sent_to = Generation(0)  # blamed for that one
        if exchange.crashes >= DEADLY:
            log.error("request quarantined", **exchange.names, cause=death.cause)
            self._quarantine.add(exchange.path, exchange.body, self._clock.now())

    def deadly(self, waiting: Iterable[Exchange], death: Death | None) -> list[Exchange]:
        """A death has become known: those of the waiting that are not asked again because of it."""
        found = []
        for exchange in waiting:
            if exchange.attempts:
                self.blame(exchange, death)
                if exchange.crashes >= DEADLY:
                    found.append(exchange)
        return found
