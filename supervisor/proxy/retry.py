"""Whether a request that the child dropped is asked again, and when. Pure.

A death is nobody's answer: what was inside goes to the next generation at once. ``retry.retryable`` and the delays are
for a child that lives and refuses. The budget is Envoy's: of what is inside, a fifth (at least three) may be there
again, so that a child that drops everything is not asked everything twice; over it, a request waits.
"""

from supervisor.errors import LlmsupError, Quarantined, UpstreamFailed
from supervisor.proxy.bounds import RetryBounds
from supervisor.proxy.inflight import Exchange

RETRY_SHARE, MIN_RETRIES = 0.2, 3
DEADLY = 2  # crashes with the same request inside


class Retries:
    def __init__(self, bounds: RetryBounds) -> None:
        self._bounds = bounds

    def given_up(self, exchange: Exchange, error: LlmsupError) -> LlmsupError | None:
        """What the client is told, if it is not asked again. A death that was another's fault costs it no try."""
        if exchange.final or exchange.attempts - exchange.excused > self._bounds.max_retries:
            return error
        return None

    def refusal(self, error: LlmsupError) -> LlmsupError | None:
        """The error, if it is one that the same generation is not asked again after. Of a dying one, any is told."""
        reason = reason_of(error)
        return error if reason is not None and reason not in self._bounds.retryable else None

    def wanted(self, exchange: Exchange, status: int) -> bool:
        """Whether an answer with this status is asked for again."""
        return status in self._bounds.retryable and exchange.attempts <= self._bounds.max_retries

    def delay_s(self, exchange: Exchange) -> float:
        """Before the same generation is asked again."""
        return self._bounds.delay_s * self._bounds.multiplier ** max(0, exchange.attempts - 1)


def allowed(retrying: int, active: int) -> bool:
    """The budget: whether one more may be at the child again."""
    return retrying < max(MIN_RETRIES, RETRY_SHARE * active)


def reason_of(error: LlmsupError) -> str | int | None:
    """An errno's name, or the status with which the child refused."""
    return error.reason if isinstance(error, UpstreamFailed) else None


def quarantined() -> Quarantined:
    return Quarantined("llama-server has crashed twice while it answered this request")
