"""Answers of our own: errors, `/health`, `/v1/models`. Bytes out; nothing here waits."""

import json
import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from supervisor.errors import ClientBanned, LlmsupError
from supervisor.events import InstanceView
from supervisor.proxy import limit_headers
from supervisor.ratelimit.gcra import SECOND_NS

DEFAULT_WAIT_S = 1.0
JSON = b"application/json; charset=utf-8"
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    413: b"Content Too Large",
    422: b"Unprocessable Content",
}

# Kept by no cache, and taken by no browser for a script or a page.
OF_THE_MOMENT = b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
_WITHOUT_BODY = frozenset({204, 304})  # which must not say how long it is (RFC 9110, 8.6)


def response(
    status: int, body: bytes, *, keep: bool, extra: bytes = b"", head_only: bool = False, kind: bytes = JSON
) -> bytes:
    """A complete response; ``extra`` holds whole header lines. What we say as JSON is for now, and for who asked."""
    if status in _WITHOUT_BODY:
        return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (
            status,
            _REASONS[status],
            extra,
            b"" if keep else b"Connection: close\r\n",
        )
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b%b\r\n%b" % (
        status,
        _REASONS.get(status, b"Unknown"),
        kind,
        len(body),
        OF_THE_MOMENT if kind is JSON else b"",
        extra,
        b"" if keep else b"Connection: close\r\n",
        b"" if head_only else body,
    )


def labels(request_id: bytes, client: bytes, retries: int = 0, queue_ms: int = 0) -> bytes:
    """The header lines that every answer of the port has."""
    return b"x-request-id: %b\r\nx-llmsup-client: %b\r\nx-llmsup-retries: %d\r\nx-llmsup-queue-ms: %d\r\n" % (
        request_id,
        client,
        retries,
        queue_ms,
    )


def error_object(error: LlmsupError, request_id: bytes, *, source: str = "llmsup") -> dict[str, Any]:
    """The one error body there is (CONTRACT: "Every error")."""
    return {
        "error": {
            "message": str(error),
            "type": error.type,
            "code": error.code,
            "param": None,
            "source": source,
            "request_id": request_id.decode("latin-1"),
        }
    }


def error_body(error: LlmsupError, request_id: bytes) -> bytes:
    return json.dumps(error_object(error, request_id)).encode()


def retry_after(error: LlmsupError, chance: Callable[[], float] = random.random) -> bytes:
    """Header lines for 429 and 503, and for who is shut out for a while."""
    if error.status not in {429, 503} and not isinstance(error, ClientBanned):
        return b""
    wait_s = DEFAULT_WAIT_S if error.retry_after_s is None else max(0.0, error.retry_after_s)
    return limit_headers.retry(round(wait_s * SECOND_NS), chance)


def challenge(error: LlmsupError) -> bytes:
    """What a 401 must have (RFC 9110, 15.5.2)."""
    return b"WWW-Authenticate: Bearer\r\n" if error.status == HTTPStatus.UNAUTHORIZED else b""


def event_stream_error(error: LlmsupError, request_id: bytes) -> bytes:
    """The last event of a stream that cannot be completed; no ``[DONE]`` follows it."""
    return b"data: %b\n\n" % error_body(error, request_id)


def health(view: InstanceView, *, draining: bool, in_full: bool) -> tuple[int, bytes]:
    """`GET /health`: of the default model, without asking it. ``in_full``: for whom it is no stranger's question, with
    the file, and the reason where there is one.
    """
    facts: dict[str, Any] = {"state": view.state}
    why: dict[str, str] = {}
    if in_full:
        facts = {
            "model": view.name,
            "model_path": view.model_path,
            "context_size": view.context_size,
            "state": view.state,
        }
        why = {"error": view.why()}
    answers = view.ready and view.suspect is None
    unloaded = view.on_demand and view.state == "STOPPED"  # idle or evicted: the next request brings it back
    if (answers or unloaded) and not draining:
        return 200, json.dumps({"status": "ok", **facts}).encode()
    if view.state == "FAILED":
        return 500, json.dumps({"status": "error", **why, **facts}).encode()
    if draining:
        status = "draining"
    elif view.ready:
        status = "suspect"  # it may hang: whoever balances load had better ask somebody else meanwhile
    else:
        status = "starting" if view.coming else "unavailable"
    return 503, json.dumps({"status": status, **why, **facts}).encode()


def models(views: Mapping[Any, InstanceView], created: int) -> bytes:
    """`GET /v1/models`: every configured model, with its state."""
    data = [
        {"id": view.name, "object": "model", "created": created, "owned_by": "llmsup", "state": view.state}
        for view in views.values()
        if not view.removed
    ]
    return json.dumps({"object": "list", "data": data}).encode()
