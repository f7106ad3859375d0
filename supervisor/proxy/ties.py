"""What a gate asks of others; composed in `parts`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from supervisor.errors import LlmsupError
from supervisor.events import Endpoint
from supervisor.proxy.inflight import Exchange
from supervisor.types import Generation, ModelName


def _later(delay_s: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, call)


def _nobody(_: ModelName) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Ties:
    poke: Callable[[ModelName, Generation], None]
    reject: Callable[[Exchange, LlmsupError], None]
    canary: Callable[[Endpoint], Awaitable[bool]]  # have a token made; True: it was
    later: Callable[[float, Callable[[], None]], object] = _later
    wanted: Callable[[ModelName], None] = _nobody  # a request waits for a model that is loaded on demand
