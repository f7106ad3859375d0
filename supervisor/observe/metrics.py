"""What `/metrics` has, and how it is counted: the families as one table, and tallies that cost next to nothing.

prometheus-client's own counters take a lock and look labels up at each step, which is microseconds a request. Here whoever
counts keeps plain numbers, and only a scrape makes samples of them (`metrics_page`). The names are the contract's.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

# Seconds. From what a cached prompt takes to the longest answers there are.
LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
WAIT_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_S = (0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
RECOVERY_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Tally:
    """A histogram. ``bounds``: the upper ends of its buckets, themselves included; one more is for what lies above."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return f"<Tally of {sum(self.counts)}, {self.sum:.3f} in all>"

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: "Tally") -> None:
        """All that another one, of the same bounds, has seen."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def cumulated(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: each bucket holds those below it too."""
        out, seen = [], 0
        for bound, count in zip((*map(_text, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            out.append((bound, float(seen)))
        return out


def _text(bound: float) -> str:
    return repr(float(bound))


@dataclass(frozen=True, slots=True)
class Family:
    """``name``: as it is scraped; a histogram's samples end in _bucket, _sum and _count."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


def _table(*families: Family) -> dict[str, Family]:
    return {family.name: family for family in families}


FAMILIES = _table(
    Family(
        "llm_requests_total",
        "counter",
        "Requests that have ended, whoever answered them, health checks and scrapes left out. status: what the client was sent; of an answer that was cut, "
        "that of the error it ended with; 499 where the client left first. model: none where it was refused before "
        "that was known",
        ("model", "endpoint", "status", "pool"),
    ),
    Family(
        "llm_tokens_total",
        "counter",
        "Tokens as llama-server told them, cached ones included; of answers that ended early, those that were passed on",
        ("model", "kind", "pool"),
    ),
    Family(
        "llm_latency_seconds",
        "histogram",
        "From the last byte of a request to the last of its answer, queue included; of those sent to llama-server",
        ("model", "endpoint"),
    ),
    Family(
        "llm_time_to_first_token_seconds",
        "histogram",
        "From the last byte of a request to the first token of llama-server's stream, queue included",
        ("model",),
    ),
    Family("llm_active_requests", "gauge", "Requests at llama-server now", ("model",)),
    Family(
        "llm_cache_operations_total",
        "counter",
        "Answers whose prompt was (hit) or was not (miss) in llama-server's prompt cache in part or whole. llmsup has no "
        "cache of its own: store, evict and coalesced stay 0",
        ("op",),
    ),
    Family("llmsup_build_info", "gauge", "Always 1; what is running", ("version", "python", "loop")),
    Family("llmsup_queue_depth", "gauge", "Requests that wait for their turn now"),
    Family(
        "llmsup_queue_wait_seconds",
        "histogram",
        "How long requests that need a slot waited for their turn, those that waited in vain and did not wait included",
    ),
    Family(
        "llmsup_rate_limit_decisions_total",
        "counter",
        "Verdicts of the limits: admitted by all of them (policy all), or refused by one",
        ("pool", "policy", "decision"),
    ),
    Family(
        "llmsup_proxy_overhead_seconds",
        "histogram",
        "Our own share of a request: from its last byte to having been written to llama-server, the queue left out. The "
        "way back is not in it: bytes are passed on as they come",
    ),
    Family(
        "llmsup_retries_total",
        "counter",
        "Further tries of requests, those after a death included",
        ("model",),
    ),
    Family(
        "llmsup_continued_streams_total",
        "counter",
        "Streams whose llama-server died: completed by another, cut all the same, left by their client meanwhile, or "
        "impossible to go on with",
        ("outcome",),
    ),
    Family("llmsup_instance_state", "gauge", "1 for the state a model is in, else 0", ("model", "state")),
    Family(
        "llmsup_instance_restarts_total",
        "counter",
        "llama-servers begun of llmsup's own accord, by why the one before ended",
        ("model", "cause"),
    ),
    Family(
        "llmsup_instance_memory_bytes",
        "gauge",
        "Memory of a model's llama-servers. anon, file, shmem and swap add up; pss and gpu are other views of it",
        ("model", "kind"),
    ),
    Family(
        "llmsup_recovery_seconds",
        "histogram",
        "From a death being noticed to READY again, of models in service",
    ),
    Family("llmsup_memory_limit_bytes", "gauge", "memory.limit_mb: what all llama-servers may take together"),
    Family("llmsup_slots", "gauge", "Requests a model can answer at the same time", ("model",)),
    Family("llmsup_connections", "gauge", "Connections of clients now"),
    Family("llmsup_connections_limit", "gauge", "So many there may be"),
    Family(
        "llmsup_key_requests_total",
        "counter",
        "Requests that have ended, by the API key they came with",
        ("key",),
    ),
    Family("llmsup_key_tokens_total", "counter", "Tokens, likewise", ("key", "kind")),
    Family(
        "llmsup_log_dropped_lines_total",
        "counter",
        "Lines not written: too many, or the disk did not take them",
        ("file",),
    ),
    Family(
        "llmsup_child_scrape_failures_total",
        "counter",
        "Scrapes that went without a model's own metrics, as it did not tell them in time",
        ("model",),
    ),
)
