"""What is meant to differ from llama-server's own answer: the one list, each with its reason.

`HEADERS` differ in every answer; a case names its row of `ANSWERS`, and the row is asserted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HEADERS: Mapping[str, str] = {
    "connection, keep-alive": "hop by hop: each of the two connections has its own",
    "access-control-*": "llama-server allows every page of every origin; here the configuration decides",
    "x-request-id, x-llmsup-*, (x-)ratelimit-*": "added",
    "server": "an answer taken together from a stream is written by llmsup, which names no server",
    "retry-after, retry-after-ms": "added to every 429 and 503",
    "cache-control, x-content-type-options": "added to what llmsup says itself",
}


def _error(code: str) -> Callable[[Any], bool]:
    def holds(body: Any) -> bool:
        error = body["error"]
        said = (error["code"], error["source"], error["param"])
        return bool(said == (code, "llmsup", None) and error["message"])

    return holds


def _health(body: dict[str, object]) -> bool:
    return body == {"status": "ok", "state": "READY"}


def _models(body: Any) -> bool:
    return body["object"] == "list" and [(one["id"], one["state"]) for one in body["data"]] == [
        ("demo", "READY")
    ]


def _metrics(text: str) -> bool:
    return "\nllmsup_build_info{" in text and '\nllamacpp:n_decode_total{model="demo"} ' in text


@dataclass(frozen=True, slots=True)
class Difference:
    """``holds`` judges the body, decoded from JSON where it is JSON."""

    why: str
    status: int
    holds: Callable[[Any], bool]


ANSWERS: Mapping[str, Difference] = {
    "admin": Difference(
        "routes that change or reveal the server or other clients' work are for admin keys",
        403,
        _error("forbidden"),
    ),
    "health": Difference("answered without asking the child, and tells its state", 200, _health),
    "origin": Difference(
        "llama-server does what a page of any site asks; here only pages that are named may ask",
        403,
        _error("origin_not_allowed"),
    ),
    "models": Difference("lists what is configured, with its state", 200, _models),
    "metrics": Difference("llmsup's own, and every llama-server's by model", 200, _metrics),
    "method": Difference("TRACE and CONNECT mean nothing here", 400, _error("bad_request")),
    "fragment": Difference("has no place in a request target (RFC 9112, 3.2)", 400, _error("bad_request")),
    "u-escape": Difference(
        "llama-server reads %u0073 as s, nobody else does: a way round the admin routes",
        400,
        _error("bad_request"),
    ),
    "too large": Difference(
        "proxy.max_body_bytes is below llama-server's own 100 MiB", 413, _error("body_too_large")
    ),
    "more than slots": Difference(
        "as many answers at once as slots, over all prompts too: counted here, before others wait behind them",
        400,
        _error("bad_request"),
    ),
    "invalid JSON": Difference(
        "the caller's fault, not the server's 500 that llama-server makes of it",
        400,
        _error("bad_request"),
    ),
    "not an object": Difference("refused alike, in the words of our own form", 400, _error("bad_request")),
    "too deep": Difference(
        "beyond 200 levels JSON is refused, as some hundred times more bring llama-server down",
        400,
        _error("bad_request"),
    ),
    "HTTP/1.0": Difference(
        "llama-server sends chunks to HTTP/1.0 too, which knows none (RFC 9112, 6.1); here the end is the close",
        200,
        lambda body: "\n\ndata: [DONE]\n\n" in body and not body[0].isdigit(),
    ),
}

# Not meant to differ, and not mended yet: each must fail, so that it is taken off when it is mended.
OPEN: Mapping[str, str] = {}
