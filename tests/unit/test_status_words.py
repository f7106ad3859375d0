"""`llmsup status` for people: what is wrong stands there in plain words, and only then."""

from typing import Any

import click
import pytest

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
    return click.unstyle("\n".join(page(state(**changes)))).splitlines()


def test_where_all_is_well_there_are_three_lines():
    assert lines() == [
        "llmsup 1  http://127.0.0.1:8000  pid 1, up 9.0 s",
        "requests: 1 in flight, 0 waiting, 3 in all, 0 failed   memory: 27 MiB children, 30 MiB llmsup",
        "  demo             READY      pid 7 port 40001 up 5.0 s 27 MiB slots 1/4 restarts 2",
    ]


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
    ],
)
def test_what_is_wrong_has_a_line_of_its_own(changes, line):
    assert set(lines(**changes)) - set(lines()) == {line}


def test_one_that_waits_says_for_how_long():
    assert (
        lines(state="BACKOFF", pid=None, next_try_s=12.0)[-1]
        == "  demo             BACKOFF    next try in 12.0 s"
    )


def test_spans():
    assert [span(it) for it in (4.2, 200, 18180, 187200)] == ["4.2 s", "3 min 20 s", "5 h 3 min", "2 d 4 h"]
