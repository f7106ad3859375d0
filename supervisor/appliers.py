"""What of a new configuration a living daemon takes up at once, beside its log level and its certificate.

Limits and the queue's bounds change under the requests that run and wait: nothing is dropped, and what clients have
used stays used.
"""

from dataclasses import replace

from supervisor.parts import Parts
from supervisor.reload import Applier, Commit
from supervisor.settings.schema import Settings
from supervisor.translate import bounds_of, pools_of, shared_of, shares_of


def appliers(parts: Parts) -> list[Applier]:
    return [_limits(parts), _queue(parts), _bodies(parts)]


def _limits(parts: Parts) -> Applier:
    def prepare(settings: Settings) -> Commit:
        pools, shared = pools_of(settings), shared_of(settings)
        parts.limits.check(pools, shared)

        def commit() -> None:
            parts.limits.configure(pools, shared)
            parts.admission.shares.clear()
            parts.admission.shares.update(shares_of(pools))

        return commit

    return Applier(("limits.pools",), prepare)


def _queue(parts: Parts) -> Applier:
    def prepare(settings: Settings) -> Commit:
        fresh = bounds_of(settings)

        def commit() -> None:
            admission = parts.admission
            admission.bounds = replace(
                admission.bounds,
                concurrent=fresh.concurrent,
                queue_size=fresh.queue_size,
                queue_timeout_s=fresh.queue_timeout_s,
            )
            admission.pump()

        return commit

    keys = ("proxy.max_concurrent_requests", "proxy.queue_size", "proxy.queue_timeout_s")
    return Applier(keys, prepare)


def _bodies(parts: Parts) -> Applier:
    def prepare(settings: Settings) -> Commit:
        def commit() -> None:
            parts.pipeline.max_body_bytes = settings.proxy.max_body_bytes

        return commit

    return Applier(("proxy.max_body_bytes",), prepare)
