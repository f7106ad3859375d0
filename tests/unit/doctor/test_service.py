import socket

import pytest

from supervisor.control.rundir import RunDir
from supervisor.doctor import service
from supervisor.errors import LlmsupError

STATE = {
    "pid": 7,
    "listen": "127.0.0.1:8005",
    "memory": {"warning": "too much"},
    "models": [
        {"name": "a", "state": "READY", "last_death": None},
        {
            "name": "b",
            "state": "FAILED",
            "last_death": {"cause": "model_missing", "detail": "/m is not there"},
        },
        {"name": "c", "state": "CRASHLOOP", "last_death": None},
    ],
}


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


def test_no_daemon_is_no_fault(run):
    findings, state = service.daemon(run)
    assert ([found.level for found in findings], state) == (["ok"], None)
    assert "does not run" in findings[0].detail
    assert service.left_over(run, None).level == "ok"


def test_a_daemon_tells_of_its_instances(run, monkeypatch):
    monkeypatch.setattr(service.ControlClient, "get", lambda *_: STATE)
    findings, state = service.daemon(run)
    assert state is STATE
    assert [found.level for found in findings] == ["ok", "ok", "fail", "fail", "warn"]
    assert findings[2].detail == "FAILED: model_missing: /m is not there"
    assert findings[2].remedy == "llmsup why b"
    assert service.port("127.0.0.1", 8005, state).level == "ok"
    assert service.left_over(run, state).level == "ok"


def test_one_that_does_not_answer_is_a_failure(run, monkeypatch):
    def silent(*_):
        raise LlmsupError("it does not answer", hint="end it")

    monkeypatch.setattr(service.ControlClient, "get", silent)
    findings, state = service.daemon(run)
    assert (findings[0].level, findings[0].remedy, state) == ("fail", "end it", None)


def test_a_taken_port_is_named_with_its_owner(monkeypatch):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        number = squatter.getsockname()[1]
        found = service.port("127.0.0.1", number, None)
    assert (found.level, f"port {number}" in found.detail) == ("fail", True)
    assert service.port("127.0.0.1", number, None).level == "ok"
    assert service.port("127.0.0.1", 0, None).level == "ok"


def test_what_an_earlier_daemon_left_is_named(run, monkeypatch):
    run.create()
    seen = [(type("Seen", (), {"pid": 4711})(), ("marker", "record"))]
    monkeypatch.setattr(service.leftovers, "left_over", lambda *_, **__: iter(seen))
    found = service.left_over(run, None)
    assert (found.level, "4711" in found.detail) == ("warn", True)
