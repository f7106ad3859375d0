"""Spans, from a real daemon to a real receiver of OTLP over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.collector import Collector, Span
from tests.support.daemon import CHAT, DaemonUnderTest, chat_body, until

TRACE, PARENT = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
SERVER = 2  # SPAN_KIND_SERVER


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[DaemonUnderTest, Collector]]:
    with Collector() as collector, DaemonUnderTest() as daemon:
        daemon.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        daemon.run()
        daemon.wait_ready()
        yield daemon, collector


def span_of(collector: Collector, request_id: str) -> Span:
    def found() -> list[Span]:
        return [one for one in collector.spans if one.attributes["llmsup.request_id"] == request_id]

    (span,) = until(found, f"the span of {request_id}")
    return span


def asked(
    daemon: DaemonUnderTest, request_id: str, body: Any = None, path: str = CHAT, **headers: str
) -> Any:
    return daemon.ask("POST", path, body or chat_body("Hello"), **{"x-request-id": request_id} | headers)


def test_a_span_says_what_was_asked_and_what_it_took(both: tuple[DaemonUnderTest, Collector]) -> None:
    daemon, collector = both
    usage = asked(daemon, "one").json()["usage"]
    span = span_of(collector, "one")
    assert collector.paths == {"/v1/traces"}
    assert (span.name, span.kind, span.failed, span.service) == (f"POST {CHAT}", SERVER, False, "llmsup")
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    told = ("gen_ai.operation.name", "gen_ai.request.model", "http.response.status_code", "http.route")
    assert [span.attributes[name] for name in told] == ["chat", "demo", 200, CHAT]
    assert 0 < span.attributes["gen_ai.server.time_to_first_token"] <= span.seconds < 15


def test_it_lies_below_the_clients_span_where_that_is_sampled(
    both: tuple[DaemonUnderTest, Collector],
) -> None:
    daemon, collector = both
    asked(daemon, "not-sampled", traceparent=f"00-{TRACE}-{PARENT}-00")
    asked(daemon, "sampled", traceparent=f"00-{TRACE}-{PARENT}-01")
    span = span_of(collector, "sampled")
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert "not-sampled" not in {one.attributes["llmsup.request_id"] for one in collector.spans}


def test_without_one_it_is_the_first_of_the_trace_that_the_log_has(
    both: tuple[DaemonUnderTest, Collector],
) -> None:
    daemon, collector = both
    asked(daemon, "root-1")
    span = span_of(collector, "root-1")
    path = daemon.state_dir / "logs" / "llmsup-access.log"
    until(lambda: "root-1" in path.read_text(), "its line")
    (line,) = [one for one in map(json.loads, path.read_text().splitlines()) if one["request_id"] == "root-1"]
    assert (span.trace_id, span.parent_id) == (line["trace_id"], "")


def test_a_failure_of_ours_is_an_error_and_a_callers_is_not(both: tuple[DaemonUnderTest, Collector]) -> None:
    daemon, collector = both
    assert asked(daemon, "theirs", b"not json").status == 400
    daemon.behave(status=500)
    assert asked(daemon, "ours").status == 500
    daemon.behave()
    assert not span_of(collector, "theirs").failed
    assert span_of(collector, "ours").failed


def test_the_last_spans_are_sent_when_the_daemon_ends() -> None:
    with Collector() as collector, DaemonUnderTest() as daemon:
        slow = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        daemon.environ |= slow
        daemon.run()
        daemon.wait_ready()
        asked(daemon, "last")
        daemon.stop()
        assert [one.attributes["llmsup.request_id"] for one in collector.spans] == ["last"]


def test_a_collector_that_is_away_costs_neither_requests_nor_the_end() -> None:
    with DaemonUnderTest() as daemon:
        daemon.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        daemon.run()
        daemon.wait_ready()
        assert [asked(daemon, f"n-{number}").status for number in range(3)] == [200, 200, 200]
        daemon.stop(within_s=10)
