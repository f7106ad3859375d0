"""What the request path is held to: the configuration's ``proxy:``, ``retry:`` and ``circuit_breaker:``, as values."""

from dataclasses import dataclass, field

from supervisor.proxy.breaker import BreakerBounds


@dataclass(frozen=True, slots=True)
class RetryBounds:
    """From ``retry:`` of the configuration."""

    max_retries: int = 3
    delay_s: float = 1.0
    multiplier: float = 2.0
    retryable: frozenset[str | int] = frozenset({"ECONNREFUSED", "ETIMEDOUT", 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """From ``proxy:``, ``retry:`` and ``circuit_breaker:`` of the configuration."""

    concurrent: int
    queue_size: int
    queue_timeout_s: float
    silence_s: float
    retry: RetryBounds = field(default_factory=RetryBounds)
    breaker: BreakerBounds = field(default_factory=BreakerBounds)
