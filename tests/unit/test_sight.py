"""What `llmsup top` sees: all of it from one daemon, less from an older one, the last of it when there is none."""

from datetime import UTC, datetime
from typing import Any

import pytest

from supervisor.cli.sight import Watch, rates
from supervisor.control.client import OutdatedDaemon
from supervisor.errors import NotRunning, TimedOut
from tests.support.overseer import ROW, STATUS

AT = datetime(2030, 1, 2, tzinfo=UTC)


class _Daemon:
    """``tokens`` of its one model, ``error`` in place of every answer, ``older``: it knows /status only."""

    def __init__(self) -> None:
        self.tokens, self.pid = 0, 1
        self.error: Exception | None = None
        self.older = False
        self.now = 100.0

    def get(self, path: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        if path == "/status":
            death = {"at": AT.isoformat(), "cause": "killed", "detail": "SIGKILL"}
            one = (
                STATUS["models"][0] | {"last_death": death} | ({} if self.older else {"tokens": self.tokens})
            )
            return STATUS | {"pid": self.pid, "models": [one]}
        if self.older:
            raise OutdatedDaemon(f"no {path}")
        name = path[1:].partition("?")[0]
        return {name: [ROW] if name == "requests" else []}


@pytest.fixture
def daemon() -> _Daemon:
    return _Daemon()


def watch(daemon: _Daemon) -> Watch:
    return Watch(daemon, now=lambda: daemon.now, wall=lambda: AT)


def test_tokens_a_second_come_from_two_looks(daemon: _Daemon) -> None:
    top = watch(daemon)
    assert top.look().rates == {"demo": None}
    daemon.tokens, daemon.now = 70, 102.0
    assert top.look().rates == {"demo": 35.0}
    daemon.now = 103.0
    assert top.look().rates == {"demo": 0.0}


def test_another_daemon_begins_anew(daemon: _Daemon) -> None:
    top = watch(daemon)
    daemon.tokens = 70
    top.look()
    daemon.pid, daemon.tokens, daemon.now = 2, 90, 102.0
    assert top.look().rates == {"demo": None}


def test_while_it_is_away_the_last_sight_stays_with_why(daemon: _Daemon) -> None:
    top = watch(daemon)
    assert top.look().trouble == ""
    daemon.error = NotRunning("llmsup is not running")
    seen = top.look()
    assert "not running" in seen.trouble
    assert seen.status["models"][0]["name"] == "demo"
    daemon.error = TimedOut("llmsup did not answer", hint="is it frozen?")
    assert top.look().trouble == "llmsup did not answer (is it frozen?)"
    daemon.error = None
    assert top.look().trouble == ""


def test_one_that_never_answered_is_an_error(daemon: _Daemon) -> None:
    daemon.error = NotRunning("llmsup is not running")
    with pytest.raises(NotRunning):
        watch(daemon).look()


def test_of_an_older_daemon_the_last_deaths_are_its_events(daemon: _Daemon) -> None:
    daemon.older = True
    top = watch(daemon)
    top.look()
    daemon.now += 1
    seen = top.look()
    assert (seen.requests, seen.clients, seen.rates) == ([], [], {"demo": None})
    assert [(one["kind"], one["data"]["model"], one["data"]["cause"]) for one in seen.events] == [
        ("death", "demo", "killed")
    ]


def test_a_document_for_machines_has_everything(daemon: _Daemon) -> None:
    told = watch(daemon).look().as_dict()
    assert set(told) == {"at", "trouble", "status", "requests", "clients", "events", "tokens_per_s"}
    assert told["trouble"] is None
    assert told["requests"] == [ROW]


def test_a_counter_that_went_back_says_nothing() -> None:
    before = {"pid": 1, "models": [{"name": "a", "tokens": 9}]}
    assert rates(
        before, {"pid": 1, "models": [{"name": "a", "tokens": 3}, {"name": "b", "tokens": 1}]}, 1.0
    ) == {"a": None, "b": None}
