"""5 Answered already? What the daemon can say itself, without asking a child.

Answers given here are `/health` (never refused, never queued) and `/v1/models`; `/metrics` comes from `scrapes`. A store of
earlier answers would be asked in this place.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from supervisor.errors import ModelUnavailable
from supervisor.events import InstanceView
from supervisor.proxy import answers
from supervisor.proxy.decision import Answer
from supervisor.proxy.inflight import Exchange
from supervisor.types import ModelName

HEALTH = frozenset({b"/health", b"/v1/health"})
MODELS = frozenset({b"/v1/models", b"/models"})
METRICS = b"/metrics"
OWN = HEALTH | MODELS | {METRICS}
_SOON = ModelUnavailable("", retry_after_s=answers.DEFAULT_WAIT_S)
READING = frozenset({b"GET", b"HEAD"})


def answerer(
    views: Mapping[ModelName, InstanceView],
    default: Callable[[], ModelName],
    draining: Callable[[], bool],
    started: int,
) -> Callable[[Exchange], Answer | None]:
    """Stage 5. ``started``: wall-clock seconds, for ``created``."""

    def look(exchange: Exchange) -> Answer | None:
        if exchange.method not in READING:
            return None
        if exchange.path in HEALTH:
            known = exchange.client.key is not None
            status, body = answers.health(views[default()], draining=draining(), in_full=known)
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                exchange.lines += answers.retry_after(_SOON)
            return Answer(status, body)
        if exchange.path in MODELS:
            return Answer(200, answers.models(views, started))
        return None

    return look
