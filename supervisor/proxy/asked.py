"""What a body asks, read once: for the model's name, for whether a stream can be made of it, and to be refused.

llama-server answers 500 to what is not JSON; here it is the caller's mistake (400). Read by jiter, which comes with
pydantic: 2 microseconds for a usual body. It takes 200 levels of nesting, far more than any schema has and far
fewer than bring llama-server down (LLAMA_SERVER 0.8). Of a large body its outline is read, which was made as it came
(`outline`), and of all but the smallest only what somebody here asks for is kept: a tree of objects takes many
times the bytes that it was made of, for as long as its request waits.
"""

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from supervisor.errors import BadRequest, BodyTooLarge
from supervisor.proxy import outline, request_bounds
from supervisor.proxy.assembly import as_stream, with_progress
from supervisor.proxy.assembly.ask import CONSIDERED
from supervisor.proxy.continuation import CONTINUABLE
from supervisor.proxy.decision import Decision
from supervisor.proxy.inflight import Exchange
from supervisor.types import KIB, MIB

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # llama-server's reader passes it over
# Routes of llama-server that read their bodies as JSON, whatever the Content-Type says.
JSON_POSTS = frozenset(
    b"/completion /completions /v1/completions /chat/completions /v1/chat/completions /v1/chat/completions/control "
    b"/v1/responses /responses /v1/messages /infill /embedding /embeddings /v1/embeddings "
    b"/rerank /reranking /v1/rerank /v1/reranking /tokenize /detokenize /apply-template "
    b"/chat/completions/input_tokens /v1/chat/completions/input_tokens /responses/input_tokens "
    b"/v1/responses/input_tokens /v1/messages/count_tokens".split()
)
# Read at once, whoever asks (a millisecond at worst, 10 us mostly); what is larger is read for those only whose rate
# allows one more request.
SMALL_BYTES = 16 * KIB
WHOLE_BYTES = 4 * KIB  # of a larger body not all that was read is kept
# Its texts are read again, and written, if llama-server dies in the middle of the answer: some 50 ms at this size.
MAX_CONTINUED_BYTES = 4 * MIB
MAX_TEXT_BYTES = 1 * MIB  # of one parameter: a grammar of this length takes llama-server minutes
# All that is looked at after this stage: what is made of its answer, and how many tokens that may have.
KEPT = CONSIDERED | {
    "model",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n_predict",
    "stop",
    "temperature",
}
_KEPT_ITEMS = 16  # of a list or an object in the place of a parameter: whether there are any is what counts
_INFINITE = (float("inf"), float("-inf"))


def before(
    choose: Callable[[Exchange], Decision], *, look: Callable[[Exchange], None], continuing: bool
) -> Callable[[Exchange], Decision]:
    """Stage 3 with the body read first. ``look``: raises where its client may ask nothing now, whatever it is."""

    def decide(exchange: Exchange) -> Decision:
        if len(exchange.body) > SMALL_BYTES:
            look(exchange)
        read(exchange)
        decision = choose(exchange)  # which may find it too large: before its bytes are written anew
        if exchange.asked is not None:
            arrange(exchange, exchange.asked, continuing=continuing)
        return decision

    return decide


def read(exchange: Exchange) -> None:
    """Set ``asked``, and the ``demand`` that its model has to judge.

    Raises:
        BadRequest: it is not a JSON object, or asks for what nobody may (`request_bounds`).
        BodyTooLarge: it has more elements than are read of one request, or a parameter that is too long.
    """
    if exchange.method != b"POST" or exchange.path not in JSON_POSTS:
        return
    asked = understood(exchange)
    exchange.demand = request_bounds.check(
        exchange.path, asked, body_bytes=len(exchange.body), texts=_texts(exchange)
    )
    exchange.asked = asked
    exchange.outline = None


def arrange(exchange: Exchange, asked: dict[str, Any], *, continuing: bool) -> None:
    """How its answer will be had: as it is, kept, or made of a stream. Of ``asked`` the little that is looked at later is kept."""
    _arrange(exchange, asked, continuing=continuing)
    if len(exchange.body) > WHOLE_BYTES:
        exchange.asked = {name: _reduced(asked[name]) for name in KEPT.intersection(asked)}


def _arrange(exchange: Exchange, asked: dict[str, Any], *, continuing: bool) -> None:
    if asked.get("stream") is True:
        # Of chosen fields only, not even the end can be told.
        exchange.continuable = (
            continuing
            and exchange.path in CONTINUABLE
            and len(exchange.body) <= MAX_CONTINUED_BYTES
            and not exchange.http10  # which knows no chunks
            and not asked.get("response_fields")
        )
        if exchange.continuable:  # it goes through `stream`, which keeps the progress from its client
            exchange.outgoing = with_progress(exchange.path, exchange.body, asked)
        return
    streamed = as_stream(exchange.path, exchange.body, asked)
    if streamed is not None:
        exchange.outgoing, exchange.assembled = streamed, True


def understood(exchange: Exchange) -> dict[str, Any]:
    """Its body, or the outline of a large one, in which parameters are whole.

    Raises:
        BadRequest: it is not a JSON object, or has a number that nobody can take.
        BodyTooLarge: as `read`.
    """
    body = exchange.body if exchange.outline is None else exchange.outline.text()
    try:
        asked = from_json(body.removeprefix(BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from None
    if not isinstance(asked, dict):
        raise BadRequest("the body must be a JSON object")
    for infinite in _INFINITE:
        if infinite in asked.values():
            _refuse_infinite(asked, infinite)
    if exchange.outline is not None:
        for name in [name for name in asked if name.startswith(outline.MARK)]:
            _name(asked, name, exchange.body)
        for name, value in asked.items():
            if isinstance(value, str) and name not in _CONTENT:
                asked[name] = _whole(name, value, exchange.body)
    return asked


# Which are texts for the model. All else may be a parameter, of which every character counts.
_CONTENT = frozenset(["prompt", "input", "content", "system", "instructions", "input_prefix", "input_suffix"])


def _refuse_infinite(asked: dict[str, Any], infinite: float) -> None:
    """llama-server's reader knows no number beyond a double's range, and answers 500."""
    name = next(name for name, value in asked.items() if value == infinite)
    raise BadRequest(f"the number of {name!r} is too large")


def _name(asked: dict[str, Any], mark: str, body: bytes) -> None:
    """A name that is long, or was made so by escapes, is as good as any."""
    name = _whole("a name", mark, body)
    if name in asked and name != mark:
        raise BadRequest(f"the body has {name[:80]!r} twice")
    asked[name] = asked.pop(mark)


def _texts(exchange: Exchange) -> request_bounds.Texts:
    """What stands for texts in a body as it was understood."""
    if exchange.outline is None:
        return request_bounds.AS_THEY_ARE
    body = exchange.body
    return request_bounds.Texts(whole=lambda text: _whole("a text", text, body), size=_size)


def _size(text: str) -> int:
    place = outline.place(text)
    return len(text) if place is None else place.stop - place.start - 2


def _whole(name: str, value: str, body: bytes) -> str:
    """A text that was left out of the outline, from the body; others as they are."""
    place = outline.place(value)
    if place is None:
        return value
    if place.stop - place.start > MAX_TEXT_BYTES:
        raise BodyTooLarge(f"{name!r} has more than {MAX_TEXT_BYTES} bytes")
    try:
        return str(from_json(body[place]))
    except ValueError:  # somebody has written such a mark himself
        return value


def _reduced(value: Any) -> Any:
    """A parameter without what is nested in it; as true or false as it was."""
    if isinstance(value, list):
        return [_flat(one) for one in value[:_KEPT_ITEMS]]
    if isinstance(value, dict):
        return {name: _flat(value[name]) for name in list(value)[:_KEPT_ITEMS]}
    return value


def _flat(value: Any) -> Any:
    return True if isinstance(value, list | dict) else value
