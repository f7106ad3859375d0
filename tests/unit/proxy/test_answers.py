"""`proxy.answers`: complete responses, and the one error body."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import h11
import pytest

from supervisor import errors
from supervisor.errors import LlmsupError, ModelUnavailable, QueueFull
from supervisor.events import Death
from supervisor.proxy import answers
from supervisor.proxy.limits import RateLimited
from supervisor.types import Generation
from tests.support.proxyrig import view


def every_error(of: type[LlmsupError] = LlmsupError) -> list[type[LlmsupError]]:
    kinds = [of, *[each for sub in of.__subclasses__() for each in every_error(sub)]]
    return sorted(
        (kind for kind in kinds if kind.__module__ == "supervisor.errors"), key=lambda kind: kind.__name__
    )


@pytest.mark.parametrize("status", sorted({error.status for error in every_error()} | {200, 422, 299}))
def test_a_response_is_legal_http(status):
    raw = answers.response(status, b"{}", keep=False, extra=b"X-A: 1\r\n")
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.receive_data(raw)
    head = client.next_event()
    assert head.status_code == status
    assert dict(head.headers) == {
        b"content-type": b"application/json; charset=utf-8",
        b"content-length": b"2",
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
        b"x-a": b"1",
        b"connection": b"close",
    }
    assert head.reason
    assert client.next_event().data == b"{}"


def test_a_head_only_response_tells_the_length():
    raw = answers.response(200, b"12345", keep=True, head_only=True)
    assert b"\r\nContent-Length: 5\r\n" in raw
    assert raw.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_what_has_no_body_does_not_say_how_long_it_is(status):
    raw = answers.response(status, b"", keep=True, extra=b"X-A: 1\r\n")
    assert raw.startswith(b"HTTP/1.1 %d No" % status)
    assert raw.endswith(b"\r\nX-A: 1\r\n\r\n")
    assert b"ontent-" not in raw


def test_a_file_says_itself_for_how_long_it_is_good():
    assert b"no-store" not in answers.response(200, b"x", keep=True, kind=b"text/css")


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_the_one_shape(kind):
    body = json.loads(answers.error_body(kind("it broke"), b"id-1"))
    assert body == {
        "error": {
            "message": str(kind("it broke")),
            "type": kind.type,
            "code": kind.code,
            "param": None,
            "source": "llmsup",
            "request_id": "id-1",
        }
    }


def test_a_hint_is_part_of_the_message():
    error = answers.error_object(QueueFull("full", hint="try later"), b"x")["error"]
    assert error["message"] == "full (try later)"


@pytest.mark.parametrize(
    ("wait_s", "seconds", "milliseconds"),
    [(None, 1, 1000), (0.0, 1, 1), (0.0001, 1, 1), (2.5, 3, 2500), (60, 60, 60000), (-4.0, 1, 1)],
)
def test_retry_after_is_never_less_than_the_wait(wait_s, seconds, milliseconds):
    for kind in (QueueFull, ModelUnavailable, RateLimited):
        lines = answers.retry_after(kind("no", retry_after_s=wait_s), lambda: 0.0)
        assert lines == b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % (seconds, milliseconds)


def test_other_errors_say_nothing_of_coming_back():
    assert answers.retry_after(errors.BadRequest("no", retry_after_s=3)) == b""


def test_an_error_event_is_one_event():
    event = answers.event_stream_error(errors.UpstreamCrashed("line\nbreak"), b"x")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2


def test_health_says_why_it_failed_to_those_who_are_known():
    death = Death(
        datetime(2025, 1, 1, tzinfo=UTC), Generation(1), "model_missing", None, 1, 0.1, "no file /m.gguf"
    )
    status, body = answers.health(view("FAILED", last_death=death), draining=False, in_full=True)
    assert status == 500
    assert "no file /m.gguf" in json.loads(body)["error"]
    status, body = answers.health(view("FAILED", last_death=death), draining=False, in_full=False)
    assert status == 500
    assert json.loads(body) == {"status": "error", "state": "FAILED"}


@pytest.mark.parametrize(
    ("state", "status"), [("READY", "ok"), ("LOADING", "starting"), ("BACKOFF", "unavailable")]
)
def test_health_tells_strangers_no_file_and_no_reason(state, status):
    _, body = answers.health(view(state, wanted=state != "BACKOFF"), draining=False, in_full=False)
    assert set(json.loads(body)) == {"status", "state"}
    assert json.loads(body)["state"] == state


@pytest.mark.parametrize("state", ["READY", "LOADING", "DRAINING"])
def test_health_while_draining_is_a_503_whatever_the_state(state):
    status, body = answers.health(view(state), draining=True, in_full=False)
    assert (status, json.loads(body)["status"]) == (503, "draining")


def test_health_of_a_model_that_the_next_request_loads_is_good():
    unloaded = replace(view("STOPPED", wanted=False), on_demand=True)
    status, body = answers.health(unloaded, draining=False, in_full=False)
    assert (status, json.loads(body)["state"]) == (200, "STOPPED")
    assert answers.health(unloaded, draining=True, in_full=False)[0] == 503
    assert answers.health(view("STOPPED", wanted=False), draining=False, in_full=False)[0] == 503
