"""What is shipped for Prometheus and Grafana, on a real Prometheus that scrapes a real daemon under a little load."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import rawhttp
from tests.support.daemon import CHAT, UNLIMITED, DaemonUnderTest, chat_body, running, until
from tests.support.prometheus_server import SHIPPED, Prometheus, program

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
RULES_TEST = Path(__file__).parent / "prometheus_rules.test.yml"
DASHBOARD = json.loads((ROOT / "config/grafana/dashboard.json").read_text())
RULES = yaml.safe_load((SHIPPED / "rules.yml").read_text())["groups"][0]["rules"]
# Seconds to Grafana's variables: as in a dashboard that looks at everything.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$model": ".*"}
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^{}]*)\}")
NAME = re.compile(r"\b((?:llm|llmsup|process)_[a-z_]+|llamacpp:[a-z_]+|llmsup:[a-z_:0-9]+)\b")
# What a dashboard's query or a selector may leave out in a healthy daemon, and why.
MAY_BE_EMPTY = {
    'changes(process_start_time_seconds{job="llmsup", instance=~".*"}[1m]) > 0': "llmsup did not restart",
}


def load(daemon: DaemonUnderTest, prometheus: Prometheus) -> None:
    """A bit of everything: streams, whole answers, a key, refusals, failures, and a death in the middle of a stream."""
    key = daemon.cli("keys", "create", "ci", "--pool", "small").stdout.strip()
    for _ in range(3):
        assert daemon.chat().status == 200
        assert daemon.chat(stream=True).status == 200
    until(lambda: prometheus.query("sum(llm_requests_total) >= 6"), "what went well is scraped", 30)
    bearer = {"Authorization": f"Bearer {key}"}
    asked = [rawhttp.ask(daemon.port, "POST", CHAT, chat_body("Hi"), bearer).status for _ in range(4)]
    assert asked == [200, 429, 429, 429]
    daemon.behave(status=500)
    assert daemon.chat().status == 500
    daemon.behave(token_delay_s=0.02)
    with daemon.streaming("Hello", max_tokens=20) as reader:
        generation = daemon.kill_child()
        while reader.chunk():
            pass
    daemon.wait_next(generation)


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    pools = UNLIMITED | {"small": {"requests_per_minute": 1, "requests_per_hour": None, "concurrent": None}}
    with running(limits={"pools": pools}) as daemon, Prometheus(f"127.0.0.1:{daemon.port}") as started:
        until(lambda: started.query("llmsup_build_info"), "a first scrape", 30)
        load(daemon, started)
        killed = 'llmsup_instance_restarts_total{cause="killed"} == 1'
        until(lambda: started.query(killed), "the last of it is scraped", 30)
        until(lambda: started.query("llmsup:error_ratio:rate5m > 0"), "rules are evaluated", 30)
        yield started


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Title and expression, with the variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], filled_in(target["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], filled_in(annotation["expr"])


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def selectors(expression: str) -> Iterator[str]:
    """Each series an expression looks at, with its labels and without what is done to it."""
    bare = SELECTOR.sub("", expression)
    yield from (f"{name}{{{labels}}}" for name, labels in SELECTOR.findall(expression))
    yield from NAME.findall(bare)


def test_the_target_is_up_and_scraped_as_it_is_shipped(prometheus: Prometheus) -> None:
    (target,) = prometheus.targets()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"]["job"] == "llmsup"


@pytest.mark.parametrize(("title", "expression"), list(dashboard_queries()))
def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus, title: str, expression: str) -> None:
    assert prometheus.query(expression) or expression in MAY_BE_EMPTY, expression


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_looks_at_series_that_there_are(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    prometheus.query(rule["expr"])  # which is empty in a healthy daemon, but understood
    looked_at = list(selectors(rule["expr"]))
    assert looked_at
    for selector in looked_at:
        assert prometheus.query(selector), selector


def test_rules_are_healthy_and_every_alert_says_what_to_do(prometheus: Prometheus) -> None:
    assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert set(rule["annotations"]) == {"summary", "todo"}


def test_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    variables = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert {one["name"] for one in variables} == {"instance", "model"}
    for one in variables:
        series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["definition"]).groups()  # type: ignore[union-attr]  # or it fails
        assert all(label in found["metric"] for found in prometheus.query(series)), one["definition"]
        assert prometheus.query(series)


# ---- without a daemon


@pytest.mark.parametrize(
    "arguments",
    [
        # The key's file is the operator's to make.
        ("check", "config", "--syntax-only", str(SHIPPED / "prometheus.yml")),
        ("check", "rules", str(SHIPPED / "rules.yml")),
        ("test", "rules", str(RULES_TEST)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([program("promtool"), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_with_what_it_is_for_and_without() -> None:
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    tested = [
        (one["alertname"], bool(one["exp_alerts"]))
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for one in test["alert_rule_test"]
    ]
    assert {name for name, fires in tested if fires} == alerts
    assert {name for name, fires in tested if not fires} == alerts


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert DASHBOARD["uid"] == "llmsup"
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("kind", ["datasources", "dashboards"])
def test_what_grafana_is_provisioned_with_is_yaml_of_version_1(kind: str) -> None:
    document = yaml.safe_load((ROOT / f"config/grafana/provisioning/{kind}/llmsup.yml").read_text())
    assert document["apiVersion"] == 1
