"""Tallies; and the table of families, which docs/metrics.md must agree with."""

import re
from pathlib import Path

import pytest

from supervisor.observe.metrics import FAMILIES, LATENCY_S, Tally

DOCS = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
CONTRACT = {
    "llm_requests_total": ("model", "endpoint", "status", "pool"),
    "llm_tokens_total": ("model", "kind", "pool"),
    "llm_latency_seconds": ("model", "endpoint"),
    "llm_time_to_first_token_seconds": ("model",),
    "llm_active_requests": ("model",),
    "llm_cache_operations_total": ("op",),
    "llmsup_queue_depth": (),
    "llmsup_queue_wait_seconds": (),
    "llmsup_rate_limit_decisions_total": ("pool", "policy", "decision"),
    "llmsup_instance_state": ("model", "state"),
    "llmsup_instance_restarts_total": ("model", "cause"),
    "llmsup_instance_memory_bytes": ("model", "kind"),
    "llmsup_recovery_seconds": (),
    "llmsup_continued_streams_total": ("outcome",),
    "llmsup_proxy_overhead_seconds": (),
}


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (2.1, 2)], ids=str)
def test_a_bound_belongs_to_the_bucket_that_it_ends(value: float, bucket: int) -> None:
    tally = Tally((1.0, 2.0))
    tally.observe(value)
    assert tally.counts.index(1) == bucket
    assert tally.sum == value


def test_buckets_hold_those_below_them() -> None:
    tally = Tally((1.0, 2.0))
    for value in (0.5, 1.5, 1.5, 9.0):
        tally.observe(value)
    assert tally.cumulated() == [("1.0", 1.0), ("2.0", 3.0), ("+Inf", 4.0)]


def test_tallies_add_up() -> None:
    one, other = Tally(LATENCY_S), Tally(LATENCY_S)
    one.observe(0.3)
    other.observe(0.3)
    other.observe(1e9)
    one.add(other)
    assert (sum(one.counts), one.counts[-1], one.sum) == (3, 1, pytest.approx(1e9 + 0.6))


@pytest.mark.parametrize("name", CONTRACT)
def test_names_and_labels_are_those_of_the_contract(name: str) -> None:
    assert FAMILIES[name].labels == CONTRACT[name]
    assert FAMILIES["llmsup_build_info"].kind == "gauge"


def test_kinds_go_with_names() -> None:
    for family in FAMILIES.values():
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name
        assert (family.kind == "histogram") <= family.name.endswith("_seconds"), family.name


def test_every_metric_is_in_the_docs_with_its_labels_and_the_other_way_round() -> None:
    rows = re.findall(r"^\| `(llm[a-z_]+)(?:\{([a-z,]+)\})?` \| (\w+) \|", DOCS, re.MULTILINE)
    documented = {name: (tuple(labels.split(",")) if labels else (), kind) for name, labels, kind in rows}
    assert documented == {one.name: (one.labels, one.kind) for one in FAMILIES.values()}
    assert len(rows) == len(documented)
