"""What a request adds to the page; `finished.exchange` is an answered chat of 10 and 20 tokens, 5 of them cached."""

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.observe.metrics_page import Page
from supervisor.proxy.inflight import LEFT
from supervisor.proxy.meters import ENDPOINTS, FAILURES, KEYS_MAX, NO_MODEL, OTHER, Meters
from supervisor.proxy.usage import Usage
from tests.support.finished import exchange, of_key


def counted(*rows: Any, now: float = 100.5) -> dict[str, float]:
    """``name{label values in order}`` of every sample that is not 0."""
    meters, page = Meters(), Page()
    for row in rows:
        meters.count(row, now)
    meters.fill(page)
    return {
        f"{one.name}{{{','.join(one.labels.values())}}}": one.value
        for metric in page.collect()
        if not metric.name.startswith("process")
        for one in metric.samples
        if one.value
    }


CHATS = "demo,/v1/chat/completions"


def test_an_answered_request() -> None:
    found = counted(exchange(waited_s=0.0, first_token_at=100.1))
    assert found[f"llm_requests_total{{{CHATS},200,anonymous}}"] == 1
    assert found["llm_tokens_total{demo,prompt,anonymous}"] == 10
    assert found["llm_tokens_total{demo,completion,anonymous}"] == 20
    assert found[f"llm_latency_seconds_count{{{CHATS}}}"] == 1
    assert found[f"llm_latency_seconds_sum{{{CHATS}}}"] == pytest.approx(0.5)
    assert found["llm_time_to_first_token_seconds_sum{demo}"] == pytest.approx(0.1)
    assert found["llm_cache_operations_total{hit}"] == 1
    assert found["llmsup_proxy_overhead_seconds_sum{}"] == pytest.approx(0.001)
    assert found["llmsup_queue_wait_seconds_count{}"] == 1
    assert "llmsup_retries_total{demo}" not in found


def test_the_queue_is_no_overhead() -> None:
    found = counted(exchange(waited_s=3.0, sent_at=103.002))
    assert found["llmsup_queue_wait_seconds_sum{}"] == 3.0
    assert found["llmsup_proxy_overhead_seconds_sum{}"] == pytest.approx(0.002)


def test_who_waits_still_when_its_client_leaves_has_waited() -> None:
    row = exchange(attempts=0, sent_at=0.0, usage=None, waited_s=1.0, waiting_since=102.0, status=LEFT)
    found = counted(row, now=104.0)
    assert found["llmsup_queue_wait_seconds_sum{}"] == 3.0
    assert found[f"llm_requests_total{{{CHATS},499,anonymous}}"] == 1


@pytest.mark.parametrize("what", ["latency", "wait", "overhead"])
def test_a_refusal_is_counted_and_no_measure_of_speed(what: str) -> None:
    found = counted(exchange(attempts=0, sent_at=0.0, usage=None, status=429))
    assert found[f"llm_requests_total{{{CHATS},429,anonymous}}"] == 1
    assert not [name for name in found if what in name]


def test_without_a_model_there_are_no_tokens_of_one() -> None:
    found = counted(exchange(gate=None, attempts=0, usage=None, status=401))
    assert found == {f"llm_requests_total{{{NO_MODEL},/v1/chat/completions,401,anonymous}}": 1}


def test_a_prompt_that_was_not_in_the_cache_is_a_miss_and_unknown_figures_are_neither() -> None:
    assert counted(exchange(usage=Usage(10, 1, 0)))["llm_cache_operations_total{miss}"] == 1
    assert not [name for name in counted(exchange(usage=None)) if "cache" in name]


def test_an_answer_that_ended_early_is_counted_by_what_was_passed_on() -> None:
    found = counted(exchange(usage=None, meter=SimpleNamespace(tokens=7), status=LEFT))
    assert found["llm_tokens_total{demo,completion,anonymous}"] == 7


def test_what_was_asked_again_is_a_retry_and_no_measure_of_overhead() -> None:
    found = counted(exchange(attempts=3))
    assert found["llmsup_retries_total{demo}"] == 2
    assert "llmsup_proxy_overhead_seconds_count{}" not in found


@pytest.mark.parametrize(
    ("continued", "status", "outcome"),
    [(1, 200, "completed"), (2, 502, "cut"), (1, LEFT, "left"), (0, 502, "impossible")],
)
def test_streams_that_lost_their_llama_server(continued: int, status: int, outcome: str) -> None:
    found = counted(exchange(stream=object(), continued=continued, status=status))
    assert found[f"llmsup_continued_streams_total{{{outcome}}}"] == 1


def test_a_stream_that_went_well_and_one_that_stood_still_are_none_of_these() -> None:
    found = counted(exchange(stream=object()), exchange(stream=object(), status=504))
    assert not [name for name in found if "streams" in name]


def test_paths_that_are_no_routes_share_one_label() -> None:
    found = counted(*(exchange(f"/made/up/{number}".encode()) for number in range(50)))
    assert found[f"llm_requests_total{{demo,{OTHER},200,anonymous}}"] == 50


def test_another_name_of_a_route_is_counted_under_its_first() -> None:
    found = counted(exchange(b"/chat/completions"), exchange())
    assert found[f"llm_requests_total{{{CHATS},200,anonymous}}"] == 2
    assert set(ENDPOINTS.values()) <= {path.decode() for path in ENDPOINTS}


def test_only_a_key_names_its_client_and_many_of_them_share_one_label() -> None:
    found = counted(exchange(client=of_key("ci")), exchange())
    assert found["llmsup_key_requests_total{ci}"] == 1
    assert found["llmsup_key_tokens_total{ci,completion}"] == 20
    many = counted(*(exchange(client=of_key(f"k{number}")) for number in range(KEYS_MAX + 10)))
    assert many[f"llmsup_key_requests_total{{{OTHER}}}"] == 10


def test_failures_have_series_before_there_are_any() -> None:
    meters, page = Meters(), Page()
    meters.count(exchange(), 100.5)
    meters.fill(page)
    (metric,) = [one for one in page.collect() if one.name == "llm_requests"]
    assert {one.labels["status"]: one.value for one in metric.samples} == {
        "200": 1,
        **{str(status): 0 for status in FAILURES},
    }


@pytest.mark.parametrize("path", [b"/health", b"/v1/health", b"/metrics"])
def test_probes_are_no_requests(path: bytes) -> None:
    assert not [name for name in counted(exchange(path, attempts=0, status=503)) if "requests" in name]


def test_what_could_not_be_read_is_counted_by_its_status() -> None:
    meters, page = Meters(), Page()
    meters.refuse(431)
    meters.refuse(431)
    meters.fill(page)
    (metric,) = [one for one in page.collect() if one.name == "llm_requests"]
    assert [(*one.labels.values(), one.value) for one in metric.samples] == [
        (NO_MODEL, OTHER, "431", "anonymous", 2)
    ]


def test_of_a_removed_model_nothing_is_told_but_what_is_counted_over_all() -> None:
    meters, page = Meters(), Page()
    meters.count(exchange(), 100.5)
    meters.forget("demo")
    meters.fill(page)
    samples = [one for metric in page.collect() for one in metric.samples]
    assert not [one for one in samples if "demo" in one.labels.values()]
    assert [one.value for one in samples if one.labels.get("op") == "hit"] == [1]
