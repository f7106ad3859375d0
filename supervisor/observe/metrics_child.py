"""llama-server's own metrics, taken from its text and told apart by model.

Whatever it writes, what comes out is bounded, is about `llamacpp:` only, and cannot be taken for ours.
"""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from supervisor.types import KIB

PREFIX = "llamacpp:"
MOST_BYTES = 256 * KIB  # today's has 3 KiB
MOST_SAMPLES = 500  # of one model
_KINDS = frozenset({"counter", "gauge"})


def families(text: str, model: str) -> list[Metric]:
    """Its counters and gauges with ``model`` as a label.

    Raises:
        ValueError: it is no text of metrics, or far too long.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text)} bytes of metrics")
    return list(_relabelled(text, model))


def _relabelled(text: str, model: str) -> Iterator[Metric]:
    written = {line.partition(" ")[0].partition("{")[0] for line in text.splitlines()}
    left = MOST_SAMPLES
    for family in text_string_to_metric_families(text):
        samples = family.samples[:left]
        if not family.name.startswith(PREFIX) or not samples:
            continue
        left -= len(samples)
        kind = family.type if family.type in _KINDS else "unknown"
        # The parser calls each counter `_total`. llama-server has one that is not called so (n_tokens_max) and is none.
        misnamed = kind == "counter" and family.name in written
        metric = Metric(family.name, family.documentation, "unknown" if misnamed else kind)
        for one in samples:
            name = family.name if misnamed else one.name
            metric.add_sample(name, {**one.labels, "model": model}, one.value)
        yield metric
