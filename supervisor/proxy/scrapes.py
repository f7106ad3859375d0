"""`/metrics` on the port: who may read it, and its answer, which comes once the children have had their half second.

It holds no slot, no place in the queue and no limit. Scrapes that come while one is being answered share its answer.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import structlog

from supervisor.errors import Forbidden, LlmsupError
from supervisor.keys.key import Scope
from supervisor.proxy import answers, cached
from supervisor.proxy.console import sits_here
from supervisor.proxy.decision import WAIT, Decision
from supervisor.proxy.identity import Identity
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.origins import Origins

log: structlog.stdlib.BoundLogger = structlog.get_logger("metrics")

Gather = Callable[
    [str], Awaitable[tuple[bytes, str]]
]  # what a scraper accepts -> the text and its Content-Type
Decide = Callable[[Exchange], Decision]
_READING = frozenset({b"GET", b"HEAD"})
HOW_TO = (
    "llmsup keys create prometheus --scope metrics; or, from this machine, metrics.open_on_loopback: true"
)
_SCOPES = frozenset({Scope.ADMIN, Scope.METRICS})
_ACCEPT = re.compile(rb"^accept:(.*)\r$", re.IGNORECASE | re.MULTILINE)


def checker(identity: Identity, origins: Origins, *, on_loopback: bool) -> Callable[[Exchange], bool]:
    """Who may on admin routes: administrators; on this one, to read it, also a key of its own scope, and with
    ``on_loopback`` whoever sits at this machine.
    """

    def may(exchange: Exchange) -> bool:
        if exchange.path != cached.METRICS or exchange.method not in _READING:
            return identity.is_admin(exchange)
        if on_loopback and exchange.fields.key is None and sits_here(exchange):
            return origins.are_own(exchange.fields)
        if identity.has_scope(exchange, _SCOPES):
            return True
        raise Forbidden("/metrics is for keys of the scope metrics or admin", hint=HOW_TO)

    return may


class Scrapes:
    """``labels``: the header lines that every answer has."""

    def __init__(self, gather: Gather, labels: Callable[[Exchange], bytes]) -> None:
        self._gather = gather
        self._labels = labels
        self._tasks: set[asyncio.Task[None]] = set()

    def before(self, others: Decide) -> Decide:
        """Stage 5, for this path; the others pay for a comparison."""

        def decide(exchange: Exchange) -> Decision:
            if exchange.path != cached.METRICS or exchange.method not in _READING:
                return others(exchange)
            task = asyncio.create_task(self._answer(exchange), name="scrape")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return WAIT

        return decide

    async def _answer(self, exchange: Exchange) -> None:
        status = 200
        try:
            body, kind = await self._gather(_accepted(exchange))
        except Exception as failed:  # whoever scrapes must be told something, and soon
            log.exception("no metrics", **exchange.names)
            error = LlmsupError(f"llmsup failed: {type(failed).__name__}")
            status, body, kind = 500, answers.error_body(error, exchange.id), answers.JSON.decode()
        if not exchange.gone:
            exchange.connection.answer(
                exchange, status, body, self._labels(exchange) + answers.OF_THE_MOMENT, kind.encode()
            )


def _accepted(exchange: Exchange) -> str:
    """The values of Accept, of which only a scrape's matter here."""
    return b",".join(_ACCEPT.findall(exchange.fields.passed)).decode("latin-1")
