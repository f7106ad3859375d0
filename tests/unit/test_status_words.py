"""`llmsup status` for people: what is wrong stands there in plain words, and only then."""

from typing import Any

import pytest

from supervisor.cli import output
from supervisor.cli.status import page, span


def state(*, warning: str | None = None, **changes: Any) -> dict[str, Any]:
    model = {
        "name": "demo", "state": "READY", "pid": 7, "port": 40001, "uptime_s": 5.0, "rss_bytes": 27 << 20,
        "slots": {"total": 4, "busy": 1}, "restarts": 2, "next_try_s": None, "suspect": None,
        "circuit_breaker": "closed",
        "degraded": None, "log": None, "last_death": None,
    }  # fmt: skip
    return {
        "version": "1", "url": "http://127.0.0.1:8000", "pid": 1, "uptime_s": 9.0, "stopping": False,
        "requests": {"in_flight": 1, "queued": 0, "total": 3, "failed": 0},
        "memory": {"children_rss_bytes": 27 << 20, "daemon_rss_bytes": 30 << 20, "warning": warning},
        "deaths": {"error": None}, "logs": {"error": None, "dropped": 0},
        "models": [model | changes],
    }  # fmt: skip


def lines(**changes: Any) -> list[str]:
    return output.unstyled("\n".join(page(state(**changes)))).splitlines()


def test_where_all_is_well_there_are_four_lines():
    assert lines() == [
        "llmsup 1  http://127.0.0.1:8000  pid 1, up 9.0 s",
        "requests: 1 in flight, 0 waiting, 3 in all, 0 failed   memory: 27 MiB children, 30 MiB llmsup",
        "MODEL  STATE  PID   PORT     UP  MEMORY  SLOTS  RESTARTS",
        "demo   READY    7  40001  5.0 s  27 MiB    1/4         2",
    ]


def test_the_unix_socket_stands_beside_the_port():
    told = next(page(state() | {"listen_unix": "/run/llmsup/sock"}))
    assert told.startswith("llmsup 1  http://127.0.0.1:8000 and /run/llmsup/sock  pid 1")
    assert " and " not in next(page(state() | {"listen_unix": None}))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"warning": "llama-servers take 9 MiB, memory.limit_mb is 8 MiB"},
            "memory above the limit: llama-servers take 9 MiB, memory.limit_mb is 8 MiB",
        ),
        ({"circuit_breaker": "open"}, "    circuit breaker open: requests wait until it answers again"),
        ({"suspect": "nothing has moved for 60 s"}, "    suspected to hang: nothing has moved for 60 s"),
        ({"degraded": "safe profile (threads 1)"}, "    degraded: safe profile (threads 1)"),
        (
            {"second": {"role": "standby", "state": "READY", "generation": 2, "pid": 8, "why": None}},
            "    standby: READY (generation 2, pid 8)",
        ),
        (
            {
                "second": {
                    "role": "standby",
                    "state": "STOPPED",
                    "generation": 0,
                    "pid": None,
                    "why": "no memory",
                }
            },
            "    standby: STOPPED: no memory",
        ),
        (
            {"second": {"role": "next", "state": "LOADING", "generation": 3, "pid": 9, "why": None}},
            "    the next one: LOADING (generation 3, pid 9)",
        ),
        ({"not_replaced": "the old one goes on"}, "    the old one goes on"),
    ],
)
def test_what_is_wrong_has_a_line_of_its_own(changes, line):
    assert set(lines(**changes)) - set(lines()) == {line}


def test_one_that_waits_says_for_how_long():
    told = lines(state="BACKOFF", pid=None, next_try_s=12.0)[-2:]
    assert [line.split() for line in told] == [
        ["demo", "BACKOFF", "-", "-", "-", "-", "1/4", "2"],
        ["next", "try", "in", "12.0", "s"],
    ]


def test_spans():
    assert [span(it) for it in (4.2, 200, 18180, 187200)] == ["4.2 s", "3 min 20 s", "5 h 3 min", "2 d 4 h"]


def test_a_refused_edit_and_what_waits_for_the_next_start_stand_below_the_heading():
    error = {
        "message": "c.yaml: 2 errors\nc.yaml:1:1: a\nc.yaml:2:1: b",
        "since": "2030-01-01T00:00:00+00:00",
    }
    told = [
        output.unstyled(line)
        for line in page(state() | {"config_error": error, "config_pending": ["listen", "log.dir"]})
    ]
    assert told[1:6] == [
        "the configuration was edited and is wrong; the one before is in force (since 2030-01-01T00:00:00+00:00)",
        "    c.yaml: 2 errors",
        "    c.yaml:1:1: a",
        "    c.yaml:2:1: b",
        "in the configuration, but only from the next start on: listen, log.dir",
    ]
    assert [*page(state() | {"config_error": None, "config_pending": []})] == [*page(state())]


def test_a_store_of_limits_that_is_away_is_said():
    store = {
        "url": "redis://h:1/0",
        "state": "away",
        "since": "12:00",
        "reason": "refused",
        "on_failure": "local",
    }
    told = output.unstyled("\n".join(page(state() | {"limits": {"store": store}})))
    assert "limits: redis://h:1/0 is away since 12:00 (refused); on_store_failure: local" in told
    assert "limits" not in "\n".join(page(state() | {"limits": {"store": store | {"state": "connected"}}}))


def test_who_is_banned_is_named_and_of_very_many_the_number():
    banned = [{"client": f"ip:192.0.2.{n}", "left_s": 3000.0 + n} for n in range(13)]
    told = [output.unstyled(line) for line in page(state() | {"bans": banned})]
    assert (
        "banned: ip:192.0.2.1 for 50 min 1 s yet: its requests brought llama-server down again and again"
        in told
    )
    assert "banned: 3 more (llmsup status --json)" in told
