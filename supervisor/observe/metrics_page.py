"""One answer to a scrape: plain numbers in, text out, rendered by prometheus-client.

A page is a custom collector (`prometheus_client.registry.Collector`): it is filled once and read once.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from supervisor.observe.metrics import FAMILIES, Tally

_EOF = b"# EOF\n"
_NOWHERE = CollectorRegistry(auto_describe=False)


class Page(Collector):
    """Every family is on it, with its HELP, though there may be no samples of it yet."""

    def __init__(self) -> None:
        self._metrics = {
            family.name: Metric(family.name.removesuffix("_total"), family.help, family.kind)
            for family in FAMILIES.values()
        }
        self._foreign: dict[str, Metric] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """One sample of a counter or gauge; ``labels``: values, in the order of the table."""
        self._metrics[name].add_sample(
            name, dict(zip(FAMILIES[name].labels, labels, strict=True)), float(value)
        )

    def add_tally(self, name: str, tally: Tally, *labels: str) -> None:
        """All samples of one histogram."""
        metric, pairs = self._metrics[name], dict(zip(FAMILIES[name].labels, labels, strict=True))
        buckets = tally.cumulated()
        for bound, count in buckets:
            metric.add_sample(f"{name}_bucket", pairs | {"le": bound}, count)
        metric.add_sample(f"{name}_count", pairs, buckets[-1][1])
        metric.add_sample(f"{name}_sum", pairs, tally.sum)

    def add_foreign(self, metrics: Iterable[Metric]) -> None:
        """Somebody else's families: each is announced once, whoever brings it; of two kinds the first counts."""
        for metric in metrics:
            known = self._foreign.setdefault(metric.name, metric)
            if known is not metric and known.type == metric.type:
                known.samples += metric.samples

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.values()
        yield from self._foreign.values()
        yield from _process.collect()


# This process's memory, processor time and descriptors under the names every Prometheus client gives them.
_process = ProcessCollector(registry=_NOWHERE)


class _One(Collector):
    """A single family as a collector, which is what the encoders take."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Renderer:
    """``kind``: the Content-Type: OpenMetrics for who accepts it, else Prometheus' own (0.0.4)."""

    def __init__(self, accept: str) -> None:
        self._encode, self.kind = choose_encoder(accept)

    def pieces(self, page: Page) -> Iterator[bytes]:
        """The text, family by family (8 us a line): whoever serves others meanwhile may do so between two of them."""
        end = b""
        for metric in page.collect():
            text = self._encode(_One(metric))
            if text.endswith(_EOF):
                text, end = text.removesuffix(_EOF), _EOF
            # In OpenMetrics prometheus-client turns the colon of samples, but not that of their TYPE, into "_".
            yield text.replace(b"\nllamacpp_", b"\nllamacpp:")
        yield end

    def whole(self, page: Page) -> bytes:
        return b"".join(self.pieces(page))
