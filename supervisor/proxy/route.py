"""3 Of which model? And does it take one of the model's slots?

With one model configured every name is served by it, as llama-server itself does, so that clients
with a name built in just work. With several, the body's ``model`` decides; a request without one is the
default model's.
"""

from collections.abc import Callable

from pydantic import BaseModel, TypeAdapter, ValidationError

from supervisor.errors import BadRequest, NotFound
from supervisor.proxy.admission import Gate
from supervisor.proxy.inflight import Exchange
from supervisor.types import ModelName

# Answered by llama-server's HTTP threads without inference: they need no slot.
SLOTLESS = frozenset(
    b"/tokenize /detokenize /apply-template /props /lora-adapters /v1/messages/count_tokens "
    b"/messages/count_tokens /v1/chat/completions/input_tokens /chat/completions/input_tokens "
    b"/v1/responses/input_tokens /responses/input_tokens /v1/chat/completions/control".split()
)


class _Asked(BaseModel):
    """The one field this stage acts on; the body goes on untouched."""

    model: str | None = None


_ASKED = TypeAdapter(_Asked)


def chooser(gates: dict[ModelName, Gate], default: ModelName) -> Callable[[Exchange], None]:
    """Stage 3 for these models."""
    only = next(iter(gates.values())) if len(gates) == 1 else None

    def choose(exchange: Exchange) -> None:
        exchange.needs_slot = exchange.method == b"POST" and exchange.path not in SLOTLESS
        exchange.gate = only if only is not None else gates[_named(exchange, gates, default)]

    return choose


def _named(exchange: Exchange, gates: dict[ModelName, Gate], default: ModelName) -> ModelName:
    if not exchange.body:
        return default
    try:
        name = _ASKED.validate_json(exchange.body).model
    except ValidationError as exc:
        raise BadRequest(
            f"the body is not a JSON object with a model name: {exc.errors()[0]['msg']}"
        ) from None
    if name is None:
        return default
    if name not in gates:
        raise NotFound(f"there is no model named {name!r}", hint=f"there are: {', '.join(gates)}")
    return ModelName(name)
