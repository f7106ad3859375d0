"""3 Of which model? And does it take one of the model's slots?

With one model configured every name is served by it, as llama-server itself does, so that clients
with a name built in just work. With several, the body's ``model`` decides, by name or alias; a request
without one is the default model's.
"""

from collections.abc import Callable, Mapping

from supervisor.errors import BadRequest, NotFound
from supervisor.proxy import asked
from supervisor.proxy.gate import Gate
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.request_bounds import ORDINARY
from supervisor.proxy.sequences import SLOTLESS
from supervisor.types import KIB, ModelName

# Of larger bodies to slotless routes there are no more at a time than there are slots: 1 MiB to /tokenize takes 60 MiB and 0.4 s.
SLOTLESS_BYTES = 64 * KIB


def chooser(
    gates: Mapping[ModelName, Gate], default: Callable[[], ModelName], aliases: Mapping[str, ModelName]
) -> Callable[[Exchange], None]:
    """Stage 3 for these models, which may change while requests come."""

    def choose(exchange: Exchange) -> None:
        exchange.needs_slot = exchange.method == b"POST" and (
            exchange.path not in SLOTLESS or len(exchange.body) > SLOTLESS_BYTES
        )
        if len(gates) == 1:
            (exchange.gate,) = gates.values()
        else:
            exchange.gate = _named(exchange, gates, aliases, default())
        if exchange.demand is not ORDINARY:
            view = exchange.gate.view
            exchange.demand.check(context_size=view.context_size, slots=view.slots)

    return choose


def _named(
    exchange: Exchange, gates: Mapping[ModelName, Gate], aliases: Mapping[str, ModelName], default: ModelName
) -> Gate:
    if not exchange.body:
        return gates[default]
    # A body that stage 1 has not read is on a path unknown to it: its name counts all the same.
    body = exchange.asked if exchange.asked is not None else asked.understood(exchange)
    name = body.get("model")
    if name is None:
        return gates[default]
    if not isinstance(name, str):
        raise BadRequest("model must be a name")
    gate = gates.get(aliases.get(name, ModelName(name)))
    if gate is None:
        raise NotFound(
            f"there is no model named {name!r}", hint=f"there are: {', '.join([*gates, *aliases])}"
        )
    return gate
