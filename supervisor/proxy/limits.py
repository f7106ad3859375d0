"""4 May they? Asks `ratelimit`; turns a refusal into what the client is told."""

from collections.abc import Callable

from supervisor.clock import Clock
from supervisor.errors import LlmsupError
from supervisor.proxy import cached
from supervisor.proxy.inflight import Exchange
from supervisor.ratelimit.policy import Policy


class RateLimited(LlmsupError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


def limiter(policy: Policy, clock: Clock) -> Callable[[Exchange], None]:
    """Stage 4 with this policy; raises RateLimited."""

    def admit(exchange: Exchange) -> None:
        if exchange.path in cached.OWN:  # a health check is never refused
            return
        verdict = policy.admit(exchange.client.name, clock.now())
        if not verdict.admitted:
            raise RateLimited(verdict.reason, retry_after_s=verdict.wait_s)

    return admit
