"""Nobody's request is risked on a child that failed: canaries of our own say whether it answers again."""

import asyncio
from collections.abc import Awaitable, Callable

from supervisor.clock import Clock
from supervisor.events import Endpoint
from supervisor.proxy.breaker import Breaker, BreakerState

CANARY_S = 10.0


async def half_open(
    breaker: Breaker, endpoint: Endpoint | None, ask: Callable[[Endpoint], Awaitable[bool]], clock: Clock
) -> bool:
    """Ask until the breaker has decided. Whether it has closed."""
    closed = False
    while endpoint is not None and breaker.state is BreakerState.HALF_OPEN:
        try:
            async with asyncio.timeout(CANARY_S):
                answered = await ask(endpoint)
        except TimeoutError:
            answered = False
        closed = breaker.canary(clock.now(), answered=answered)
    return closed
