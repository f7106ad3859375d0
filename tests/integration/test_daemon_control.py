"""The control API of a living daemon: true to its OpenAPI document, quick whatever is stuck, read by the command."""

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from tests.support import rawhttp
from tests.support.daemon import CHAT, DEADLINE_S, DaemonUnderTest, chat_body, running, until

STREAMS = 300
LOOKS = 25
STATUS_S = 0.1
UNLIMITED = {"requests_per_minute": None, "requests_per_hour": None, "concurrent": None}


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonUnderTest]:
    with running() as living:
        yield living


class Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("llmsup", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self._path)


def ask(daemon: DaemonUnderTest, method: str, path: str) -> tuple[int, Any]:
    connection = Unix(str(daemon.run_dir.socket_path))
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_what_a_living_daemon_says_is_as_described(daemon):
    generation = daemon.kill_child()
    daemon.wait_next(generation)
    assert daemon.chat().status == 200
    document = ask(daemon, "GET", "/openapi.json")[1]
    looked = 0
    for path, methods in document["paths"].items():
        if "get" not in methods or path == "/openapi.json":
            continue
        content = methods["get"]["responses"]["200"]["content"]
        if "application/json" not in content:
            continue
        schema = content["application/json"]["schema"]
        status, body = ask(daemon, "GET", path)
        assert status == 200, path
        whole = schema | {"components": document["components"]}
        jsonschema_rs.Draft202012Validator(whole).validate(body)
        looked += 1
    assert looked >= 9


def test_no_secret_leaves_by_any_way(daemon):
    with running(models={"demo": {"env": {"HF_TOKEN": "hf_" + "s" * 20}}}) as other:
        for path in ("/config", "/status", "/events", "/logs?of=daemon", "/deaths"):
            assert "s" * 20 not in json.dumps(ask(other, "GET", path)[1]), path


def test_events_of_a_life_in_order(daemon):
    generation = daemon.kill_child()
    daemon.wait_next(generation)
    assert ControlClient(daemon.run_dir).post("/restart") == {"restarting": "demo"}
    daemon.wait_next(generation + 1)
    events = ask(daemon, "GET", "/events?n=1000")[1]["events"]
    numbers = [int(event["id"].partition("-")[2]) for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(events)))
    killed = [event["data"]["cause"] for event in events if event["kind"] == "death"]
    assert "killed" in killed
    assert ("restart", "demo") in [
        (event["data"]["verb"], event["data"]["subject"]) for event in events if event["kind"] == "action"
    ]


def test_logs_go_on_across_restarts(daemon):
    pids = []
    for _ in range(2):
        generation = daemon.model()["generation"]
        pids.append(daemon.child_pid)
        ControlClient(daemon.run_dir).post("/restart")
        daemon.wait_next(generation)
    lines = ask(daemon, "GET", "/logs?n=5000")[1]["lines"]
    starts = [line for line in lines if "listening" in line]
    assert len(starts) >= 3, lines[-20:]


def test_a_wrong_edit_is_an_event_and_422(daemon):
    good = daemon.config.read_text()
    try:
        daemon.config.write_text(good + "nonsense: 1\n")
        status, body = ask(daemon, "POST", "/reload")
        assert status == 422
        assert body["error"]["exit_code"] == 6
        last = ask(daemon, "GET", "/events?n=20")[1]["events"]
        refused = [event for event in last if event["kind"] == "config_error"]
        assert "nonsense" in refused[-1]["data"]["message"]
    finally:
        daemon.config.write_text(good)


def test_the_command_is_told_what_was_wrong(daemon):
    with pytest.raises(LlmsupError, match="there is no parameter 'x' here") as caught:
        ControlClient(daemon.run_dir).get("/status?x=1")
    assert caught.value.exit_code == 2


def test_refusals_of_limits_become_events():
    pools = {"anonymous": {"requests_per_minute": 2, "concurrent": 1}}
    with running(limits={"pools": pools}) as daemon:
        assert [daemon.chat().status for _ in range(4)].count(429) == 2
        row = ask(daemon, "GET", "/clients")[1]["clients"][0]
        assert row["client"] == "ip:127.0.0.1"
        assert {"rpm", "rph"} <= {limit["name"] for limit in row["limits"]}
        assert next(limit for limit in row["limits"] if limit["name"] == "rpm")["remaining"] == 0


@pytest.mark.slow
def test_status_answers_while_everything_else_is_stuck():
    models = {"demo": {"parallel": STREAMS, "context_size": STREAMS * 1024}, "other": {}}
    proxy = {"max_concurrent_requests": STREAMS}
    limits = {"pools": {"anonymous": UNLIMITED | {"shared": UNLIMITED}}}
    with running(models=models, proxy=proxy, limits=limits) as daemon, contextlib.ExitStack() as streams:
        daemon.wait_for(lambda one: one["state"] == "READY", "READY", "other")
        daemon.behave(token_delay_s=30)
        for _ in range(STREAMS):
            sock = streams.enter_context(rawhttp.connect(daemon.port, DEADLINE_S))
            sock.sendall(rawhttp.request("POST", CHAT, chat_body("x", stream=True)))
        until(lambda: daemon.status()["requests"]["in_flight"] == STREAMS, "all are in flight", 60.0)
        children = [model["pid"] for model in daemon.status()["models"]]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        times = []
        for _ in range(LOOKS):
            begun = time.monotonic()
            daemon.status()
            times.append(time.monotonic() - begun)
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        daemon.behave()
        assert statistics.median(times) < STATUS_S, sorted(times)
