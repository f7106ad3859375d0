"""A finished request as a span: names of OpenTelemetry's semantic conventions for HTTP servers and for generative AI."""

import time
from collections.abc import Callable
from typing import Any

from supervisor.observe.otel import Finished, Spans, Trace
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.meters import ENDPOINTS, OTHER

SECOND_NS = 1_000_000_000
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/completion": "text_completion",
    "/infill": "text_completion",
    "/v1/embeddings": "embeddings",
    "/embedding": "embeddings",
}


class RequestSpans:
    """``wall_ns``: nanoseconds since 1970."""

    def __init__(self, spans: Spans, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._spans = spans
        self._wall_ns = wall_ns

    def tell(self, exchange: Exchange, now: float) -> None:
        """The request has ended."""
        ended_ns = self._wall_ns()
        received = exchange.fields.trace is not None
        route = ENDPOINTS.get(exchange.path, OTHER)
        status = exchange.status
        self._spans.add(
            Finished(
                name=f"{exchange.method.decode('latin-1')} {route}",
                trace=Trace.of(exchange.trace, received=received),
                began_ns=ended_ns - round((now - exchange.received_at) * SECOND_NS),
                ended_ns=ended_ns,
                attributes=attributes(exchange, route),
                failed=f"status {status}" if status >= 500 else None,
            )
        )


def attributes(exchange: Exchange, route: str) -> dict[str, Any]:
    """What is known of it; names of clients are left out, except those of keys."""
    out: dict[str, Any] = {
        "http.request.method": exchange.method.decode("latin-1"),
        "http.route": route,
        "url.path": exchange.path.decode("latin-1"),
        "http.response.status_code": exchange.status,
        "llmsup.request_id": exchange.id.decode("latin-1"),
        "llmsup.pool": exchange.client.pool,
        "llmsup.queue_s": exchange.waited_s,
        "llmsup.retries": max(0, exchange.attempts - 1),
        "llmsup.continued": exchange.continued,
    }
    if exchange.client.key is not None:
        out["llmsup.key"] = exchange.client.key.name
    if route in _OPERATIONS and exchange.gate is not None:
        out["gen_ai.operation.name"] = _OPERATIONS[route]
        out["gen_ai.provider.name"] = "llama.cpp"
        out["gen_ai.request.model"] = exchange.gate.view.name
    if exchange.usage is not None:
        out["gen_ai.usage.input_tokens"] = exchange.usage.prompt
        out["gen_ai.usage.output_tokens"] = exchange.usage.completion
    if exchange.first_token_at:
        out["gen_ai.server.time_to_first_token"] = exchange.first_token_at - exchange.received_at
    return out
