"""How long a large prompt is in tokens, by llama-server's own tokenizer: asked where a guess by bytes could be far off.

Only for clients whose tokens are counted, and only for prompts large enough that a wrong guess would reserve much too
much or too little; what is guessed is put right at the end in any case. Counting 100 KB takes 22 ms of one of
llama-server's HTTP threads and no slot (measured on the demo model), so above `MAX_BYTES` it is not cheap any more.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from supervisor.events import Endpoint
from supervisor.proxy.inflight import Exchange
from supervisor.types import KIB, MIB

MIN_BYTES, MAX_BYTES = 16 * KIB, 1 * MIB
# Where a body is counted that is asked there; what it says comes back as `input_tokens`.
_COUNTERS = {
    b"/v1/chat/completions": "/v1/chat/completions/input_tokens",
    b"/chat/completions": "/v1/chat/completions/input_tokens",
    b"/v1/responses": "/v1/responses/input_tokens",
    b"/responses": "/v1/responses/input_tokens",
    b"/v1/messages": "/v1/messages/count_tokens",
}

Ask = Callable[[Endpoint, str, bytes], Awaitable[Any]]


class PromptCounter:
    """``ask``: POST a body to a path of a child; what it answered as JSON, or None."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def worth(self, exchange: Exchange) -> bool:
        gate = exchange.gate
        return (
            MIN_BYTES <= len(exchange.body) <= MAX_BYTES
            and exchange.needs_slot
            and exchange.path in _COUNTERS
            and gate is not None
            and gate.open
        )

    async def count(self, exchange: Exchange) -> int | None:
        """Tokens of the prompt; None: the child did not say."""
        gate = exchange.gate
        endpoint = gate.view.endpoint if gate is not None else None
        if endpoint is None:
            return None
        told = await self._ask(endpoint, _COUNTERS[exchange.path], exchange.body)
        tokens = told.get("input_tokens") if isinstance(told, dict) else None
        return tokens if isinstance(tokens, int) and tokens >= 0 else None
