"""What a key does not allow is refused, before it is counted: the first half of stage 4."""

from collections.abc import Callable

from supervisor.errors import Forbidden
from supervisor.keys.key import Key, Scope
from supervisor.proxy import cached, ingress
from supervisor.proxy.decision import Decision
from supervisor.proxy.inflight import Exchange


def before(limit: Callable[[Exchange], Decision]) -> Callable[[Exchange], Decision]:
    """Stage 4 with the key's own limits first. A request without one costs a look."""

    def decide(exchange: Exchange) -> Decision:
        key = exchange.client.key
        if key is not None:
            check(exchange, key)
        return limit(exchange)

    return decide


def of_scope(exchange: Exchange) -> None:
    """What a request's head says already. Raises Forbidden: its key is not for this."""
    key = exchange.client.key
    if key is not None and exchange.path not in cached.OWN:
        check_scope(exchange, key)


def check(exchange: Exchange, key: Key) -> None:
    """Raises Forbidden: another scope, another model."""
    if exchange.path in cached.OWN:  # says nothing that a key must be good for
        return
    check_scope(exchange, key)
    model = exchange.gate.view.name if exchange.gate is not None else None
    if key.models is not None and model not in key.models:
        raise Forbidden(
            f"the key {key.name} is not for the model {model!r}", hint=f"it is for: {_some(key.models)}"
        )


def check_scope(exchange: Exchange, key: Key) -> None:
    """What the head alone says. Raises Forbidden: another scope."""
    if Scope.INFERENCE not in key.scopes and not ingress.is_admin_route(exchange.method, exchange.path):
        raise Forbidden(f"the key {key.name} is not for inference", hint="it has another scope")


def _some(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
