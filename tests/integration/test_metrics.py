"""`/metrics` and the access log of a real daemon: what they count is what the load did."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support import rawhttp
from tests.support.daemon import CHAT, UNLIMITED, DaemonUnderTest, chat_body, running, until

POOLS = UNLIMITED | {"small": {"requests_per_minute": 2, "requests_per_hour": None, "concurrent": None}}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonUnderTest]:
    with running(limits={"pools": POOLS}) as started:
        yield started


class Sums:
    """Every sample of a page, to be added up by some of its labels."""

    def __init__(self, text: str) -> None:
        self.samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def of(self, name: str, **labels: str) -> float:
        return sum(
            one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        return {one.labels[label] for one in self.samples if one.name == name}


def scraped(daemon: DaemonUnderTest) -> Sums:
    reply = daemon.ask("GET", "/metrics")
    assert reply.status == 200, reply
    return Sums(reply.body.decode())


def access_lines(daemon: DaemonUnderTest) -> list[dict[str, Any]]:
    path: Path = daemon.state_dir / "logs" / "llmsup-access.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def line_of(daemon: DaemonUnderTest, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in access_lines(daemon) if line["request_id"] == request_id]

    (line,) = until(found, f"the line of {request_id}")
    return line


# ---- counted as it was


def test_as_many_are_counted_as_were_asked_and_tokens_are_the_sums_of_usage(daemon: DaemonUnderTest) -> None:
    before = scraped(daemon)
    spent: Counter[str] = Counter()
    for number in range(6):
        usage = daemon.chat("word " * (number + 1)).json()["usage"]
        spent["prompt"] += usage["prompt_tokens"]
        spent["completion"] += usage["completion_tokens"]
    for _ in range(4):
        stream = daemon.chat("Hello there", stream=True, stream_options={"include_usage": True})
        last = json.loads(stream.body.decode().split("data: ")[-2])
        spent["prompt"] += last["usage"]["prompt_tokens"]
        spent["completion"] += last["usage"]["completion_tokens"]
    after = scraped(daemon)

    def grew(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    one = {"model": "demo", "endpoint": CHAT}
    assert grew("llm_requests_total", status="200", pool="anonymous", **one) == 10
    assert grew("llm_latency_seconds_count", **one) == 10
    assert grew("llm_time_to_first_token_seconds_count", model="demo") == 10
    assert grew("llmsup_queue_wait_seconds_count") == 10
    assert grew("llmsup_proxy_overhead_seconds_count") == 10
    assert grew("llmsup_rate_limit_decisions_total", decision="admitted", pool="anonymous") == 10
    assert grew("llm_cache_operations_total") == 10
    for kind in ("prompt", "completion"):
        assert grew("llm_tokens_total", model="demo", kind=kind, pool="anonymous") == spent[kind] > 0
    # llama-server's own count is the same
    assert grew("llamacpp:tokens_predicted_total", model="demo") == spent["completion"]


def test_a_key_is_counted_by_name_and_its_refusals_by_the_limit_that_refused(daemon: DaemonUnderTest) -> None:
    key = daemon.cli("keys", "create", "ci", "--pool", "small").stdout.strip()
    bearer = {"Authorization": f"Bearer {key}"}
    asked = [rawhttp.ask(daemon.port, "POST", CHAT, chat_body("Hi"), bearer).status for _ in range(5)]
    assert asked == [200, 200, 429, 429, 429]
    found = scraped(daemon)
    assert found.of("llmsup_key_requests_total", key="ci") == 5
    assert found.of("llm_requests_total", pool="small", status="429") == 3
    assert found.of("llmsup_rate_limit_decisions_total", pool="small", decision="refused") == 3
    assert found.of("llmsup_rate_limit_decisions_total", pool="small", policy="all") == 2
    assert found.labels("llmsup_key_requests_total", "key") == {"ci"}


def test_names_of_clients_and_made_up_paths_are_no_labels(daemon: DaemonUnderTest) -> None:
    for number in range(20):
        daemon.ask("GET", f"/made/up/{number}", **{"X-User-ID": f"somebody-{number}"})
    text = daemon.ask("GET", "/metrics").body.decode()
    assert "somebody" not in text
    assert "made" not in text
    assert scraped(daemon).of("llm_requests_total", endpoint="other", pool="user") == 20


def test_what_the_operator_asks_is_no_request(daemon: DaemonUnderTest) -> None:
    key = daemon.cli("keys", "create", "looker", "--scope", "admin").stdout.strip()
    before = scraped(daemon).of("llm_requests_total")
    headers = {"Authorization": f"Bearer {key}", "x-request-id": "look-1"}
    assert daemon.ask("GET", "/llmsup/status", **headers).status == 200
    daemon.ask("GET", "/v1/models", **{"x-request-id": "after-look"})
    assert scraped(daemon).of("llm_requests_total") == before + 1
    line_of(daemon, "after-look")
    assert "look-1" not in {line["request_id"] for line in access_lines(daemon)}


def test_what_was_never_a_request_is_counted_too(daemon: DaemonUnderTest) -> None:
    with rawhttp.connect(daemon.port, 5) as sock:
        sock.sendall(b"this is not HTTP\r\n\r\n")
        assert rawhttp.Reader(sock).response().status == 400
    assert scraped(daemon).of("llm_requests_total", model="(none)", status="400", endpoint="other") == 1


def test_a_client_that_leaves_is_no_failure(daemon: DaemonUnderTest) -> None:
    daemon.behave(token_delay_s=0.05)
    with daemon.streaming(max_tokens=100):
        pass
    until(lambda: scraped(daemon).of("llm_requests_total", status="499") == 1, "it is counted")
    daemon.behave()


def test_a_death_is_a_restart_a_recovery_and_a_continued_stream(daemon: DaemonUnderTest) -> None:
    daemon.behave(token_delay_s=0.02)
    with daemon.streaming("Hello", max_tokens=30) as reader:
        generation = daemon.kill_child(signal.SIGKILL)
        while reader.chunk():
            pass
    daemon.behave()
    daemon.wait_next(generation)
    found = scraped(daemon)
    assert found.of("llmsup_instance_restarts_total", cause="killed") == 1
    assert found.of("llmsup_recovery_seconds_count") == 1
    assert found.of("llmsup_continued_streams_total", outcome="completed") == 1
    assert found.of("llmsup_instance_state", state="READY", model="demo") == 1
    assert found.of("llmsup_instance_state", model="demo") == 1


# ---- who may, and in which format


def test_a_key_of_its_scope_may_from_everywhere_others_only_from_here_where_that_is_wanted(
    daemon: DaemonUnderTest,
) -> None:
    through = {"X-Forwarded-For": "192.0.2.1"}
    assert daemon.ask("GET", "/metrics", **through).status == 403
    admin = daemon.cli("keys", "create", "ops", "--scope", "admin").stdout.strip()
    assert daemon.ask("GET", "/metrics", Authorization=f"Bearer {admin}", **through).status == 200
    user = daemon.cli("keys", "create", "user").stdout.strip()
    assert daemon.ask("GET", "/metrics", Authorization=f"Bearer {user}").status == 403
    scraper = daemon.cli("keys", "create", "prometheus", "--scope", "metrics").stdout.strip()
    assert daemon.ask("GET", "/metrics", Authorization=f"Bearer {scraper}", **through).status == 200
    assert daemon.ask("GET", "/llmsup/metrics", Authorization=f"Bearer {scraper}").status == 403
    assert daemon.ask("POST", "/tokenize", {"content": "a"}, Authorization=f"Bearer {scraper}").status == 403
    assert daemon.ask("GET", "/llmsup/metrics", Authorization=f"Bearer {admin}").status == 200
    assert daemon.ask("HEAD", "/metrics").status == 200
    assert daemon.ask("POST", "/metrics", {}).status == 403


def test_loopback_is_trusted_for_nothing_by_default() -> None:
    """Behind a reverse proxy that says nothing of itself, everybody comes from there."""
    with running(metrics={}, proxy={"trusted_proxies": []}) as closed:
        assert closed.ask("GET", "/metrics").status == 403
        forged = {
            "X-User-ID": "root",
            "X-Session-ID": "s",
            "X-Forwarded-For": "8.8.8.8",
            "Forwarded": "for=8.8.8.8",
        }
        assert closed.ask("GET", "/health", **forged).header("x-llmsup-client") == "ip:127.0.0.1"


def test_no_web_page_may_read_it() -> None:
    with running(proxy={"cors": {"allow_origins": ["*"]}}, metrics={"open_on_loopback": True}) as daemon:
        page = {"Origin": "https://app.example"}
        reply = daemon.ask("GET", "/metrics", **page)
        assert reply.status == 403
        assert reply.header("access-control-allow-origin") is None
        assert daemon.ask("GET", "/health", **page).header("access-control-allow-origin") == "*"


def test_openmetrics_for_who_accepts_it_and_each_is_what_its_parser_takes(daemon: DaemonUnderTest) -> None:
    reply = daemon.ask("GET", "/metrics", Accept=OPENMETRICS)
    assert reply.header("content-type").startswith("application/openmetrics-text")
    of_it = {one.name for family in openmetrics(reply.body.decode()) for one in family.samples}
    assert of_it == {one.name for one in scraped(daemon).samples}
    assert "llamacpp:n_decode_total" in of_it


def test_the_control_socket_serves_the_same(daemon: DaemonUnderTest) -> None:
    with rawhttp.socket.socket(rawhttp.socket.AF_UNIX) as sock:
        sock.connect(str(daemon.run_dir.socket_path))
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: llmsup\r\n\r\n")
        reply = rawhttp.Reader(sock).response()
    assert reply.status == 200
    assert reply.header("content-type").startswith("text/plain; version=0.0.4")
    assert Sums(reply.body.decode()).of("llmsup_build_info") == 1


def test_scrapes_and_health_checks_count_against_no_limit() -> None:
    few = {"requests_per_minute": 1, "requests_per_hour": None, "concurrent": 1, "shared": None}
    with running(limits={"pools": {"anonymous": few}}) as limited:
        assert [limited.chat().status for _ in range(2)] == [200, 429]
        assert {limited.ask("GET", path).status for path in ("/metrics", "/health") * 5} == {200}


# ---- a child that does not answer


def test_a_child_that_is_stuck_costs_its_own_figures_only(daemon: DaemonUnderTest) -> None:
    child = psutil.Process(daemon.child_pid)
    before = scraped(daemon)
    child.suspend()
    try:
        began = time.monotonic()
        stuck = scraped(daemon)
        took_s = time.monotonic() - began
    finally:
        child.resume()
    assert 0.4 < took_s < 3.0
    assert stuck.of("llm_requests_total") == before.of("llm_requests_total")
    assert not stuck.of("llamacpp:n_decode_total")
    failures = "llmsup_child_scrape_failures_total"
    assert stuck.of(failures, model="demo") == before.of(failures, model="demo") + 1
    until(lambda: scraped(daemon).of("llamacpp:n_decode_total"), "its own are back")


# ---- the access log, and one request's stages


def test_a_line_says_what_the_client_was_told(daemon: DaemonUnderTest) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    parent = f"00-{trace}-0123456789abcdef-01"
    reply = daemon.ask("POST", CHAT, chat_body("Hello"), **{"x-request-id": "mine-1", "traceparent": parent})
    line = line_of(daemon, "mine-1")
    usage = reply.json()["usage"]
    assert line["trace_id"] == trace
    assert (line["status"], line["model"], line["path"], line["method"]) == (200, "demo", CHAT, "POST")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert line["client"] == reply.header("x-llmsup-client")
    assert 0 < line["first_token_s"] <= line["total_s"] < 15


def test_health_checks_and_scrapes_are_not_in_it(daemon: DaemonUnderTest) -> None:
    daemon.ask("GET", "/health", **{"x-request-id": "quiet-1"})
    daemon.ask("GET", "/metrics", **{"x-request-id": "quiet-2"})
    daemon.ask("GET", "/v1/models", **{"x-request-id": "told-1"})
    line_of(daemon, "told-1")
    assert not {"quiet-1", "quiet-2"} & {line["request_id"] for line in access_lines(daemon)}


def test_log_level_debug_shows_the_stages_of_one_request_from_the_environment_and_by_reload() -> None:
    with DaemonUnderTest() as daemon:
        daemon.environ["LOG_LEVEL"] = "DEBUG"
        daemon.run()
        daemon.wait_ready()
        daemon.ask("POST", CHAT, chat_body("Hello"), **{"x-request-id": "slow-1"})
        until(lambda: len(stages_of(daemon, "slow-1")) == 8, "all its stages")
        lines = stages_of(daemon, "slow-1")
        assert [line["stage"] for line in lines] == list(range(1, 9))
        assert lines[2]["outcome"] == "demo"
        assert len({line["trace_id"] for line in lines}) == 1
        assert lines[-1]["outcome"] == "over: 200"


def stages_of(daemon: DaemonUnderTest, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("request_id") == request_id and line["event"] == "stage"]


def test_a_reload_turns_stages_and_the_access_log_on_and_off(daemon: DaemonUnderTest) -> None:
    config = daemon.config.read_text()
    try:
        daemon.config.write_text(config + "\nlog: {level: debug, access: false}\n")
        done = daemon.cli("reload")
        assert done.returncode == 0, done.stderr
        daemon.ask("POST", CHAT, chat_body("Hello"), **{"x-request-id": "on-1"})
        until(lambda: len(stages_of(daemon, "on-1")) == 8, "all its stages")
    finally:
        daemon.config.write_text(config)
        assert daemon.cli("reload").returncode == 0
    daemon.ask("POST", CHAT, chat_body("Hello"), **{"x-request-id": "off-1"})
    line_of(daemon, "off-1")
    assert stages_of(daemon, "off-1") == []
    assert "on-1" not in {line["request_id"] for line in access_lines(daemon)}


# ---- what is not well


def test_an_answer_that_was_cut_has_the_status_of_why_it_was() -> None:
    with running(proxy={"continue_after_crash": False}, fake={"token_delay_s": 0.05}) as daemon:
        with daemon.streaming(max_tokens=100) as reader:
            for _ in range(3):  # the role comes first
                assert reader.chunk()
            generation = daemon.kill_child()
            while reader.chunk():
                pass
        daemon.wait_next(generation)
        found = scraped(daemon)
        assert found.of("llm_requests_total", status="502") == 1
        assert found.of("llm_requests_total", status="200") == 0
        assert found.of("llmsup_continued_streams_total") == 0
        (line,) = until(lambda: access_lines(daemon), "its line")
        assert (line["status"], line["prompt_tokens"]) == (502, None)
        assert line["completion_tokens"] >= 1


def test_who_waits_for_a_slot_is_seen_waiting_and_has_waited() -> None:
    with running(models={"demo": {"parallel": 1}}, fake={"token_delay_s": 0.1}) as daemon:
        with daemon.streaming(max_tokens=8), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(daemon.ask, "POST", CHAT, chat_body("Hi"), **{"x-request-id": "late-1"})
            until(lambda: scraped(daemon).of("llmsup_queue_depth") == 1, "it waits")
            assert scraped(daemon).of("llm_active_requests", model="demo") == 1
            assert waiting.result().status == 200
        line = line_of(daemon, "late-1")
        assert 0.1 < line["queue_s"] <= line["first_token_s"]
        assert scraped(daemon).of("llmsup_queue_wait_seconds_sum") == pytest.approx(line["queue_s"], abs=1e-5)
        assert scraped(daemon).of("llmsup_proxy_overhead_seconds_sum") < 0.1
