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


def check(exchange: Exchange, key: Key) -> None:
    """Raises Forbidden: another scope, another model."""
    if exchange.path in cached.OWN:  # says nothing that a key must be good for
        return
    if Scope.INFERENCE not in key.scopes and not ingress.is_admin_route(exchange.method, exchange.path):
        raise Forbidden(f"the key {key.name} is not for inference", hint="it has another scope")
    model = exchange.gate.view.name if exchange.gate is not None else None
    if key.models is not None and model not in key.models:
        raise Forbidden(
            f"the key {key.name} is not for the model {model!r}", hint=f"it is for: {_some(key.models)}"
        )


def _some(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
