"""What stands on the screen of `llmsup top`, of any size."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from supervisor.cli.frame import LEAST_COLUMNS, LEAST_LINES, View, all_of, bar, cut, frame, told, wide
from supervisor.cli.sight import Sight
from tests.support.overseer import ROW, STATUS

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EVENT = {"id": "a-1", "kind": "state", "at": AT.isoformat(), "data": {"model": "demo", "before": "LOADING", "state": "READY", "why": "demo is READY"}}  # fmt: skip
LIMITS = [
    {"name": "requests_per_hour", "limit": 1000, "remaining": 999, "reset_s": 1},
    {"name": "requests_per_minute", "limit": 60, "remaining": 15, "reset_s": 1},
]
CLIENT = {"client": "key:ci", "pool": "user", "in_flight": 1, "queued": 2, "limits": LIMITS}


def sight(*, requests: int = 1, models: int = 1, **changes: Any) -> Sight:
    named = [STATUS["models"][0] | {"name": f"demo{n or ''}"} for n in range(models)]
    facts: dict[str, Any] = {
        "at": AT,
        "status": STATUS | {"models": named},
        "requests": [ROW | {"id": f"r-{n}"} for n in range(1, requests + 1)],
        "clients": [CLIENT],
        "events": [EVENT],
        "rates": {"demo": 35.24},
    }
    return Sight(**(facts | changes))


def texts(seen: Sight, view: View | None = None, columns: int = 80, lines: int = 24) -> list[str]:
    return [line.text for line in frame(seen, view or View(), columns, lines)]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (81, 25), (132, 43), (250, 100)])
@pytest.mark.parametrize("requests", [0, 1, 500])
@pytest.mark.parametrize("models", [1, 60])
def test_every_section_is_there_at_every_size_and_nothing_is_wider(
    columns: int, lines: int, requests: int, models: int
) -> None:
    shown = texts(sight(requests=requests, models=models), None, columns, lines)
    assert len(shown) == lines
    assert max(map(len, shown)) <= columns
    heads = [line.split()[0] for line in shown if line.strip()]
    for head in ("MODEL", "REQUEST", "CLIENT", "EVENTS,"):
        assert head in heads
    assert "demo" in heads
    assert any("key:ci" in line for line in shown)
    assert any("LOADING -> READY" in line for line in shown)


def test_the_facts_stand_where_they_belong() -> None:
    shown = texts(sight())
    assert shown[0].startswith("llmsup 1 http://127.0.0.1:1 up 1.0 s")
    assert shown[0].endswith("03:04:05")
    assert shown[1] == "requests: 1 in flight, queue: 0, 3 in all, 0 failed   35.2 tokens/s"
    (model,) = [line.split() for line in shown if line.startswith("  demo")]
    assert model == ["demo", "READY", "1.0", "s", "0", "MiB", "[######]", "1/4", "35.2", "0"]
    (request,) = [line.split() for line in shown if line.startswith("  r-1")]
    assert request == ["r-1", "0.5", "s", "answering", "demo", "anonymous", "/v1/chat/com~"]
    (client,) = [line.split() for line in shown if "key:ci" in line]
    assert client == ["key:ci", "user", "1", "2", "requests_per_minute", "45/60"]  # the one used most


@pytest.mark.parametrize(
    ("columns", "lines"), [(LEAST_COLUMNS - 1, 24), (80, LEAST_LINES - 1), (20, 5), (3, 1)]
)
def test_a_terminal_that_is_too_small_is_told_so(columns: int, lines: int) -> None:
    shown = texts(sight(), None, columns, lines)
    assert len(shown) == lines
    assert max(map(len, shown)) <= columns
    assert "MODEL" not in "".join(shown)
    if columns > 40 and lines > 3:
        assert f"{columns} x {lines}" in shown[0]
        assert "80 x 24" in shown[1]


def test_the_mark_moves_over_all_rows_and_stays_with_its_row() -> None:
    view = View()
    texts(sight(requests=3), view)
    assert view.request() is None
    for _ in range(3):
        view.move(1)
    assert view.marked == ("request", "r-2")
    assert view.request() == "r-2"
    shown = texts(sight(requests=3), view)
    assert next(line for line in shown if line.startswith(">")).startswith("> r-2")
    later = sight(requests=3)
    later.requests.insert(0, ROW | {"id": "r-0"})  # rows move, the mark does not change its mind
    assert any(line.startswith("> r-2") for line in texts(later, view))
    texts(sight(requests=1), view)  # it has ended
    assert view.request() is None
    view.move(-5)
    assert view.marked == ("model", "demo")
    for _ in range(99):
        view.move(1)
    assert view.marked == ("event", "a-1")


def test_the_marked_row_is_always_in_sight() -> None:
    view = View(marked=("request", "r-450"))
    shown = texts(sight(requests=500), view)
    assert any(line.startswith("> r-450") for line in shown)
    assert any("of 500)" in line for line in shown)


def test_trouble_and_a_refused_configuration_are_said() -> None:
    assert "llmsup is not running" in texts(sight(trouble="llmsup is not running"))[2]
    refused = STATUS | {"config_error": {"message": "c.yaml:2:1: a\nmore", "since": ""}}
    assert texts(sight(status=refused))[2] == "configuration refused: c.yaml:2:1: a"


def test_what_is_wrong_with_a_model_stands_below_it() -> None:
    one = STATUS["models"][0] | {
        "state": "BACKOFF", "pid": None, "uptime_s": None, "next_try_s": 12.0, "suspect": "still", "degraded": "safe",
        "second": {"role": "standby", "state": "READY", "rss_bytes": 1 << 20},
    }  # fmt: skip
    shown = "\n".join(texts(sight(status=STATUS | {"models": [one]})))
    for part in ("next try in 12.0 s", "suspected to hang: still", "degraded: safe", "standby: READY, 1 MiB"):
        assert part in shown


def test_the_last_line_has_the_keys_or_what_was_said() -> None:
    assert texts(sight())[-1].startswith("q quit")
    assert texts(sight(), View(paused=True))[-1].startswith("PAUSED")
    assert texts(sight(), View(said="r-1 is cancelled"))[-1] == "r-1 is cancelled"


def test_nothing_a_client_says_commands_the_terminal() -> None:
    bad = CLIENT | {"client": "user:\x1b[2J\x07\u202e"}
    row = ROW | {"path": "/\x1b]0;title\x07", "id": "\x1b[31m"}
    event = EVENT | {"kind": "notice", "data": {"message": "\x1b[2J"}}
    seen = replace(sight(), clients=[bad], requests=[row], events=[event])
    for shown in (frame(seen, View(), 80, 24), all_of(seen, 160)):
        assert all(line.text.isprintable() for line in shown)


def test_a_pipe_gets_everything() -> None:
    shown = [line.text for line in all_of(sight(requests=500), 160)]
    assert sum(line.startswith("  r-") for line in shown) == 500
    assert not any(line.startswith("q quit") for line in shown)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (
            "state",
            {"model": "a", "before": None, "state": "FAILED", "why": "no file"},
            "a - -> FAILED: no file",
        ),
        ("death", {"model": "a", "cause": "killed", "detail": "SIGKILL"}, "a killed: SIGKILL"),
        ("action", {"verb": "restart", "subject": "a"}, "restart a"),
        ("reload", {"applied": ["listen"]}, "applied: listen"),
        ("reload", {"applied": []}, "applied: nothing"),
        ("notice", {"message": "m"}, "m"),
        ("rate_limit", {"client": "ip:1", "limit": None}, "client ip:1"),
        ("of tomorrow", {"x": 1}, "x 1"),
    ],
)
def test_events_in_words(kind: str, data: dict[str, Any], words: str) -> None:
    assert told({"kind": kind, "data": data}) == words


def test_bars_and_widths() -> None:
    assert [bar(used, 100) for used in (0, 50, 100, 400)] == [
        "[..........]",
        "[#####.....]",
        "[##########]",
        "[##########]",
    ]
    assert bar(1, 0) == "[..........]"
    assert wide("日本") == 4
    assert cut("日本語", 5) == "日本~"
    assert cut("abcdef", 4) == "abc~"
    assert cut("abc", 3) == "abc"
