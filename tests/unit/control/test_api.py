"""The control API: every route, and every refusal as JSON."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.control.operations import OPERATIONS
from tests.support.overseer import AT, STATUS, Surface, ask


@pytest.fixture
def surface(tmp_path: Path) -> Surface:
    (tmp_path / "demo.log").write_text("one\ntwo\n")
    (tmp_path / "own.log").write_text("own\n")
    (tmp_path / "errors.log").write_text("error\n")
    return Surface(tmp_path)


def asked(surface: Surface, method: str, target: str, **headers: str) -> tuple[int, Any]:
    status, fields, body = asyncio.run(ask(surface.app, method, target, headers))
    assert fields["content-type"].startswith("application/json")
    return status, json.loads(body)


def test_looking(surface: Surface) -> None:
    assert asked(surface, "GET", "/status") == (200, STATUS)
    assert asked(surface, "GET", "/requests")[1]["requests"][0]["id"] == "r-1"
    assert asked(surface, "GET", "/models")[1]["models"][0]["default"] is True
    assert asked(surface, "GET", "/clients")[1]["clients"][0]["client"] == "anonymous"
    assert asked(surface, "GET", "/deaths")[1] == {"schema": 1, "deaths": []}
    assert asked(surface, "GET", "/config")[1]["settings"][0]["key"] == "listen"
    assert asked(surface, "GET", "/history")[1]["at"] == [1.0]


def test_what_is_looked_at_is_not_kept_by_anybody(surface: Surface) -> None:
    for path in ("/status", "/config", "/logs"):
        _, fields, _ = asyncio.run(ask(surface.app, "GET", path))
        assert fields["cache-control"] == "no-store", path


@pytest.mark.parametrize(
    ("target", "document", "done"),
    [
        ("/cancel?id=r-1", {"cancelled": 1}, ("cancel", "r-1")),
        ("/restart", {"restarting": "demo"}, ("restart", "demo")),
        ("/restart?model=demo", {"restarting": "demo"}, ("restart", "demo")),
        ("/load?model=demo", {"loading": "demo"}, ("load", "demo")),
        ("/unload?model=demo", {"unloading": "demo"}, ("unload", "demo")),
        ("/stop", {"stopping": True}, ("stop", False)),
        ("/stop?now=1", {"stopping": True}, ("stop", True)),
    ],
)
def test_changing(surface: Surface, target: str, document: object, done: tuple[str, object]) -> None:
    assert asked(surface, "POST", target) == (200, document)
    assert surface.daemon.asked == [done]


@pytest.mark.parametrize(
    ("method", "target", "status", "code", "exit_code"),
    [
        ("GET", "/nowhere", 404, "not_found", 2),
        ("GET", "/status/", 404, "not_found", 2),
        ("GET", "/stop", 405, "method_not_allowed", 2),
        ("POST", "/status", 405, "method_not_allowed", 2),
        ("GET", "/status?x=1", 400, "bad_request", 2),
        ("POST", "/stop?now=soon", 400, "bad_request", 2),
        ("POST", "/cancel", 400, "bad_request", 2),
        ("POST", "/load", 400, "bad_request", 2),
        ("GET", "/logs?n=many", 400, "bad_request", 2),
        ("POST", "/cancel?id=nobody", 404, "model_not_found", 1),
        ("POST", "/cancel?id=r-1&number=2", 409, "conflict", 7),
        ("POST", "/cancel?id=r-1&number=x", 400, "bad_request", 2),
        ("POST", "/restart?model=nobody", 404, "model_not_found", 1),
        ("GET", "/logs?model=nobody", 404, "model_not_found", 1),
    ],
)
def test_refusals_have_one_form(
    surface: Surface, method: str, target: str, status: int, code: str, exit_code: int
) -> None:
    got, body = asked(surface, method, target)
    assert got == status
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "code", "exit_code"}
    assert (body["error"]["code"], body["error"]["exit_code"]) == (code, exit_code)
    assert body["error"]["message"]
    assert surface.daemon.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/status",
        "/events?n=1",
        "/events?follow=1",
        "/logs?of=daemon",
        "/openapi.json",
        "/metrics",
        "/nowhere",
    ],
)
def test_nothing_it_says_is_kept_or_taken_for_something_else(
    surface: Surface, target: str, tmp_path: Path
) -> None:
    (surface.daemon.folder / "own.log").touch()
    _, fields, _ = asyncio.run(ask(surface.app, "GET", target))
    assert (fields["cache-control"], fields["x-content-type-options"]) == ("no-store", "nosniff")


def test_405_says_what_would_do(surface: Surface) -> None:
    _, fields, _ = asyncio.run(ask(surface.app, "GET", "/stop"))
    assert fields["allow"] == "POST"


def test_a_wrong_configuration_is_422(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.errors import ConfigError

    async def reload(*, dry_run: bool) -> dict[str, object]:
        raise ConfigError("line 3: no")

    monkeypatch.setattr(surface.daemon, "reload", reload)
    status, body = asked(surface, "POST", "/reload")
    assert status == 422
    assert body["error"]["exit_code"] == 6


def test_while_it_stops_nothing_is_begun(surface: Surface) -> None:
    surface.daemon.stopping = True
    for target in ("/restart", "/load?model=demo", "/unload?model=demo", "/reload"):
        assert asked(surface, "POST", target)[0] == 503


def test_a_defect_is_a_500_in_the_same_form(surface: Surface) -> None:
    surface.daemon.defect = True

    async def work() -> list[Any]:
        from tests.support.overseer import Asking

        asking = Asking(surface.app, "GET", "/status")
        with pytest.raises(RuntimeError):  # which uvicorn writes to the log
            await asking.serve()
        return [asking.messages.get_nowait() for _ in range(asking.messages.qsize())]

    head, body = asyncio.run(work())
    assert head["status"] == 500
    assert json.loads(body["body"])["error"]["code"] == "internal_error"


def test_events_as_a_list(surface: Surface) -> None:
    for number in range(3):
        surface.events.add("state", AT, {"number": number})
    _, body = asked(surface, "GET", "/events?n=2")
    assert [event["data"]["number"] for event in body["events"]] == [1, 2]


def test_who_accepts_an_event_stream_gets_one(surface: Surface) -> None:
    surface.events.add("state", AT, {})
    for target, accept in (("/events", "text/event-stream"), ("/events?follow=1", "*/*")):
        status, fields, body = asyncio.run(ask(surface.app, "GET", target, {"accept": accept}))
        assert status == 200
        assert fields["content-type"].startswith("text/event-stream")
        assert body.startswith(b"id: life-1\nevent: state\n")


def test_logs_of_whom(surface: Surface) -> None:
    assert asked(surface, "GET", "/logs?n=1")[1]["lines"] == ["two"]
    assert asked(surface, "GET", "/logs?model=demo")[1]["lines"] == ["one", "two"]
    assert asked(surface, "GET", "/logs?of=daemon")[1]["lines"] == ["own"]
    assert asked(surface, "GET", "/logs?of=errors")[1]["lines"] == ["error"]


def test_a_log_that_cannot_be_read_is_said(surface: Surface, tmp_path: Path) -> None:
    (tmp_path / "demo.log").unlink()
    (tmp_path / "demo.log").mkdir()
    status, body = asked(surface, "GET", "/logs")
    assert status == 500
    assert "Is a directory" in body["error"]["message"]


def test_every_operation_that_changes_something_is_a_post() -> None:
    looking = {"get"}
    assert {one.method.lower() for one in OPERATIONS} == looking | {"post"}
    for one in OPERATIONS:
        assert (one.answer is None) == (one.path in {"/events", "/logs", "/metrics", "/openapi.json"}), (
            one.path
        )
