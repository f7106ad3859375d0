"""The status has the contract's shape, whatever state the instances are in."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from supervisor import __version__
from supervisor.control.status import Snapshot, status
from supervisor.events import Death, Endpoint, InstanceView
from supervisor.observe.logfile import LogView
from supervisor.proxy.breaker import Breaker, BreakerBounds
from supervisor.proxy.inflight import InFlight
from supervisor.types import Generation, ModelName

DEMO = ModelName("demo")
READY = InstanceView(
    name=DEMO,
    state="READY",
    generation=Generation(3),
    pid=os.getpid(),
    endpoint=Endpoint("127.0.0.1", 40001, "the-childs-secret"),
    slots=4,
    model_path="/models/demo.gguf",
    context_size=4096,
    restarts=2,
    since=90.0,
    spawned_at=80.0,
    next_try_at=None,
    wanted=True,
    last_death=Death(
        at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        generation=Generation(2),
        cause="killed",
        signal="SIGKILL",
        exit_code=None,
        uptime_s=12.34567,
        detail="ended by SIGKILL",
    ),
)
DEAD = replace(READY, state="BACKOFF", pid=None, endpoint=None, spawned_at=None, next_try_at=101.5)


def told(view: InstanceView, *, leases: int = 0, queued: int = 0, rows: int = 0) -> dict[str, Any]:
    in_flight = InFlight()
    in_flight.rows = set(range(rows))  # type: ignore[assignment]  only their number counts
    in_flight.total, in_flight.failed = 9, 1
    gates: Any = {view.name: SimpleNamespace(leases=leases, tokens=7, breaker=Breaker(BreakerBounds()))}
    return status(
        Snapshot(
            config="/etc/llmsup.yaml",
            listen="127.0.0.1:8005",
            uptime_s=20.0004,
            now=100.0,
            limit_bytes=1 << 30,
            views={view.name: view},
            gates=gates,
            in_flight=in_flight,
            queued=queued,
            stopping=False,
            log_dir="/logs",
            model_logs={view.name: LogView("/logs/llama-server.demo.log", 3, None)},
            own_logs=[
                LogView("/logs/llmsup.log", 1, None),
                LogView("/logs/llmsup-errors.log", 2, "no space"),
            ],
        )
    )


def test_a_ready_instance_in_full() -> None:
    model = told(READY, leases=3)["models"][0]
    rss = model.pop("rss_bytes")
    assert rss > 0
    assert model == {
        "name": "demo",
        "state": "READY",
        "pid": os.getpid(),
        "port": 40001,
        "generation": 3,
        "restarts": 2,
        "uptime_s": 20.0,
        "slots": {"total": 4, "busy": 3},
        "tokens": 7,
        "next_try_s": None,
        "circuit_breaker": "closed",
        "suspect": None,
        "model_path": "/models/demo.gguf",
        "degraded": None,
        "second": None,
        "last_unload": None,
        "not_replaced": None,
        "memory": None,
        "estimated_bytes": None,
        "log": {"path": "/logs/llama-server.demo.log", "dropped_lines": 3, "error": None},
        "last_death": {
            "at": "2026-01-02T03:04:05.678+00:00",
            "cause": "killed",
            "signal": "SIGKILL",
            "exit_code": None,
            "uptime_s": 12.346,
            "detail": "ended by SIGKILL",
        },
    }


def test_one_that_waits_says_until_when_and_has_no_process() -> None:
    model = told(DEAD)["models"][0]
    assert model["next_try_s"] == 1.5
    assert (model["pid"], model["port"], model["uptime_s"], model["rss_bytes"]) == (None, None, None, 0)


def test_a_spin_is_shown_where_a_hang_would_be() -> None:
    assert told(replace(READY, spins="busy for 5 min"))["models"][0]["suspect"] == "busy for 5 min"
    both = replace(READY, spins="busy for 5 min", suspect="it is stopped")
    assert told(both)["models"][0]["suspect"] == "it is stopped"


def test_a_try_that_is_due_is_never_in_the_past() -> None:
    assert told(replace(DEAD, next_try_at=99.0))["models"][0]["next_try_s"] == 0.0


def test_requests_that_wait_are_not_in_flight() -> None:
    assert told(READY, rows=5, queued=2)["requests"] == {
        "in_flight": 3,
        "queued": 2,
        "total": 9,
        "failed": 1,
        "continued": 0,
    }


def test_the_daemon_itself_and_what_all_children_take() -> None:
    whole = told(READY)
    assert (whole["version"], whole["pid"], whole["uptime_s"]) == (__version__, os.getpid(), 20.0)
    memory = whole["memory"]
    assert memory["limit_bytes"] == 1 << 30
    assert memory["daemon_rss_bytes"] > 0
    assert memory["children_rss_bytes"] == whole["models"][0]["rss_bytes"]


def test_how_the_daemons_own_logs_fare() -> None:
    assert told(READY)["logs"] == {"dir": "/logs", "error": "no space", "dropped": 3}


def test_the_childs_key_is_not_told() -> None:
    assert "the-childs-secret" not in json.dumps(told(READY))
    assert "the-childs-secret" not in repr(READY)


def test_the_safe_profile_and_a_full_disk_are_told() -> None:
    model = told(replace(READY, degraded="safe profile (...), because it ran out of memory"))["models"][0]
    assert model["degraded"] == "safe profile (...), because it ran out of memory"
    assert told(READY)["deaths"] == {"error": None}


def test_the_unix_socket_is_told_or_null() -> None:
    snapshot = Snapshot(
        config="c",
        listen="127.0.0.1:8005",
        listen_unix="/run/llmsup.sock",
        uptime_s=1.0,
        now=1.0,
        limit_bytes=1,
        views={},
        gates={},
        in_flight=InFlight(),
        queued=0,
        stopping=False,
    )
    assert status(snapshot)["listen_unix"] == "/run/llmsup.sock"
    assert status(replace(snapshot, listen_unix=None))["listen_unix"] is None
