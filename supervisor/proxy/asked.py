"""What a body asks, read once: for the model's name, for whether a stream can be made of it, and to be refused.

llama-server answers 500 to what is not JSON; here it is the caller's mistake (400). Read by jiter, which comes with
pydantic: 2 microseconds for a usual body. It takes 200 levels of nesting, far more than any schema has and far
fewer than bring llama-server down (LLAMA_SERVER 0.8).
"""

from typing import Any

from pydantic_core import from_json

from supervisor.errors import BadRequest
from supervisor.proxy.assembly import as_stream, with_progress
from supervisor.proxy.continuation import CONTINUABLE
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.upload import COUNTED_FROM_BYTES

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # llama-server's reader passes it over
# Routes of llama-server that read their bodies as JSON, whatever the Content-Type says.
JSON_POSTS = frozenset(
    b"/completion /completions /v1/completions /chat/completions /v1/chat/completions /v1/chat/completions/control "
    b"/v1/responses /responses /v1/messages /infill /embedding /embeddings /v1/embeddings "
    b"/rerank /reranking /v1/rerank /v1/reranking /tokenize /detokenize /apply-template "
    b"/chat/completions/input_tokens /v1/chat/completions/input_tokens /responses/input_tokens "
    b"/v1/responses/input_tokens /v1/messages/count_tokens".split()
)
# What of a large body is not worth keeping beside its bytes: numbers and words take many times their length.
_CONTENT = frozenset(
    ["messages", "prompt", "input", "tools", "system", "content", "tokens", "documents", "input_extra"]
)


def read(exchange: Exchange, *, continuing: bool) -> None:
    """Set ``asked``, and whether the answer will be kept or assembled.

    Raises:
        BadRequest: it is not a JSON object.
    """
    if exchange.method != b"POST" or exchange.path not in JSON_POSTS:
        return
    asked = understood(exchange.body)
    prompt = asked.get("prompt")
    # A list of numbers is one prompt, in tokens.
    exchange.several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    _arrange(exchange, asked, continuing)
    if len(exchange.body) > COUNTED_FROM_BYTES:
        asked = {name: value for name, value in asked.items() if name not in _CONTENT}
    exchange.asked = asked


def _arrange(exchange: Exchange, asked: dict[str, Any], continuing: bool) -> None:
    """How its answer will be had: as it is, kept, or made of a stream."""
    if asked.get("stream") is True:
        # Of chosen fields only, not even the end can be told.
        exchange.continuable = (
            continuing
            and exchange.path in CONTINUABLE
            and not exchange.http10  # which knows no chunks
            and not asked.get("response_fields")
        )
        if exchange.continuable:  # it goes through `stream`, which keeps the progress from its client
            exchange.outgoing = with_progress(exchange.path, exchange.body, asked)
        return
    streamed = as_stream(exchange.path, exchange.body, asked)
    if streamed is not None:
        exchange.outgoing, exchange.assembled = streamed, True


def understood(body: bytes) -> dict[str, Any]:
    """Raises BadRequest: it is not a JSON object."""
    try:
        asked = from_json(body.removeprefix(BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from None
    if not isinstance(asked, dict):
        raise BadRequest("the body must be a JSON object")
    return asked
