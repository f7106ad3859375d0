"""What those are told who cannot wait, or have waited in vain. Pure: words and figures."""

from supervisor.errors import LlmsupError, ModelLoading, ModelUnavailable, QueueFull, QueueTimeout
from supervisor.events import InstanceView
from supervisor.proxy.breaker import Breaker

LATER = "try again later"


def queue_full(waiting: int, expected_s: float | None) -> QueueFull:
    return QueueFull(f"{waiting} requests wait already", retry_after_s=expected_s or 1.0, hint=LATER)


def displaced() -> QueueFull:
    """By somebody who has less waiting."""
    return QueueFull(
        "the queue is full, and others have fewer requests in it",
        retry_after_s=1.0,
        hint="ask for less at a time",
    )


def too_long(expected_s: float) -> QueueTimeout:
    return QueueTimeout(
        f"it would wait for about {expected_s:.0f} s, longer than queue_timeout_s",
        retry_after_s=expected_s,
        hint=LATER,
    )


def failed_too_often(view: InstanceView, wait_s: float) -> ModelUnavailable:
    """The circuit breaker is open."""
    return ModelUnavailable(
        f"llama-server ({view.name}) has failed too often; it is asked again in {wait_s:.0f} s",
        retry_after_s=wait_s,
    )


def too_late(view: InstanceView, waited_s: float, *, in_doubt: bool, expected_s: float | None) -> LlmsupError:
    """Its time in the queue is over. ``in_doubt``: nothing is sent to llama-server just now."""
    if not view.ready or view.suspect is not None:
        kind = ModelUnavailable if view.ready else ModelLoading
        return kind(f"waited {waited_s:.0f} s; {view.why()}", retry_after_s=5.0)
    if in_doubt:
        return ModelUnavailable(
            f"waited {waited_s:.0f} s; llama-server ({view.name}) does not answer", retry_after_s=5.0
        )
    return QueueTimeout(f"waited {waited_s:.0f} s for a free slot", retry_after_s=expected_s or 5.0)


def hopeless(view: InstanceView, breaker: Breaker, now: float, timeout_s: float) -> LlmsupError | None:
    """Why waiting for that model would be in vain, if it would. ``timeout_s``: how long somebody waits at most."""
    if not (view.coming or view.on_demand):
        return ModelUnavailable(view.why(), hint="see: llmsup status", retry_after_s=timeout_s)
    wait_s = (view.next_try_at or now) - now
    if wait_s > timeout_s and not view.on_demand:
        return ModelUnavailable(f"{view.why()}; next try in {wait_s:.0f} s", retry_after_s=wait_s)
    if not breaker.closed and breaker.until - now > timeout_s:
        return failed_too_often(view, breaker.until - now)
    return None
