"""What every request adds to `/metrics`, counted once, at its end, from its row.

A request's labels lead to a row of numbers that is made once (a bound child, as client libraries call it): a look-up and a
few additions, under 1.5 us in all. Each label has a bounded number of values, whatever clients send: a path that is not a
route known here is "other", and names of clients are no label at all, except those of API keys.
"""

from collections.abc import Mapping

from supervisor.observe.metrics import (
    FIRST_TOKEN_S,
    LATENCY_S,
    OVERHEAD_S,
    WAIT_S,
    Tally,
)
from supervisor.observe.metrics_page import Page
from supervisor.proxy.inflight import ANONYMOUS, LEFT, Exchange

OTHER, NO_MODEL = "other", "(none)"  # which can be no model's name
PROBES = frozenset({"/health", "/metrics"})  # asked all day by machines: no work, and no failures of work
FAILURES = (500, 502, 503, 504)
KEYS_MAX = 200  # beyond, keys are counted together
_ROUTES = (
    "/v1/chat/completions /v1/completions /v1/responses /v1/messages /v1/embeddings /v1/rerank /completion "
    "/embedding /infill /tokenize /detokenize /apply-template /v1/messages/count_tokens /props /slots "
    "/lora-adapters /v1/models /health /metrics"
)
# llama-server's other names for the same.
_SAME = {
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/completion",
    "/responses": "/v1/responses",
    "/embeddings": "/embedding",
    "/rerank": "/v1/rerank",
    "/reranking": "/v1/rerank",
    "/v1/reranking": "/v1/rerank",
    "/models": "/v1/models",
    "/v1/health": "/health",
}
ENDPOINTS: Mapping[bytes, str] = {
    path.encode(): name for path, name in ({route: route for route in _ROUTES.split()} | _SAME).items()
}


class _Row:
    """One combination of the labels of `llm_requests_total`."""

    __slots__ = ("completion", "first", "hits", "latency", "misses", "prompt", "requests", "retries")

    def __init__(self) -> None:
        self.requests = self.retries = 0
        self.prompt = self.completion = 0
        self.hits = self.misses = 0
        self.latency, self.first = Tally(LATENCY_S), Tally(FIRST_TOKEN_S)


class _OfKey:
    __slots__ = ("completion", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt = self.completion = 0


class Meters:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int, str], _Row] = {}
        self._past_hits = self._past_misses = 0  # of models that have been removed
        self._keys: dict[str, _OfKey] = {}
        self._waits, self._overhead = Tally(WAIT_S), Tally(OVERHEAD_S)
        self._streams = dict.fromkeys(("completed", "cut", "left", "impossible"), 0)

    def __repr__(self) -> str:
        return (
            f"<Meters {sum(row.requests for row in self._rows.values())} requests in {len(self._rows)} rows>"
        )

    def count(self, exchange: Exchange, now: float) -> None:
        """The request has ended."""
        gate, client = exchange.gate, exchange.client
        label = (
            NO_MODEL if gate is None else gate.view.name,
            ENDPOINTS.get(exchange.path, OTHER),
            exchange.status,
            client.pool,
        )
        row = self._rows.get(label)
        if row is None:
            row = self._rows[label] = _Row()
        row.requests += 1
        attempts = exchange.attempts
        if exchange.needs_slot and (attempts or exchange.waited_s or exchange.waiting_since):
            waiting_since = exchange.waiting_since
            if waiting_since or exchange.waited_s:
                self._waits.observe(exchange.waited_s + (now - waiting_since if waiting_since else 0.0))
            else:
                self._waits.counts[0] += 1
        if attempts:
            row.latency.observe(now - exchange.received_at)
            if attempts == 1 and not exchange.continued:
                if exchange.sent_at:
                    self._overhead.observe(exchange.sent_at - exchange.received_at - exchange.waited_s)
            else:
                row.retries += attempts - 1
            if exchange.first_token_at:
                row.first.observe(exchange.first_token_at - exchange.received_at)
            usage = exchange.usage
            if usage is not None:
                row.prompt += usage.prompt
                row.completion += usage.completion
                if usage.cached:
                    row.hits += 1
                elif usage.prompt:
                    row.misses += 1
            elif exchange.meter is not None:
                row.completion += exchange.meter.tokens
            if exchange.stream is not None and (exchange.continued or exchange.status == 502):
                self._count_stream(exchange)
        if client.key is not None:
            self._count_key(client.key.name, exchange)

    def refuse(self, status: int) -> None:
        """Something came that never became a request: it could not be read, or took too long to come."""
        label = (NO_MODEL, OTHER, status, ANONYMOUS.pool)
        row = self._rows.get(label)
        if row is None:
            row = self._rows[label] = _Row()
        row.requests += 1

    def forget(self, model: str) -> None:
        """It has been removed. What is counted over all models goes on."""
        for label in [label for label in self._rows if label[0] == model]:
            row = self._rows.pop(label)
            self._past_hits += row.hits
            self._past_misses += row.misses

    def _count_stream(self, exchange: Exchange) -> None:
        if not exchange.continued:
            outcome = "impossible"
        elif exchange.status == LEFT:
            outcome = "left"
        else:
            outcome = "completed" if exchange.status < 400 else "cut"
        self._streams[outcome] += 1

    def _count_key(self, name: str, exchange: Exchange) -> None:
        row = self._keys.get(name)
        if row is None:
            if len(self._keys) >= KEYS_MAX:
                name = OTHER
            row = self._keys.setdefault(name, _OfKey())
        row.requests += 1
        usage = exchange.usage
        if usage is not None:
            row.prompt += usage.prompt
            row.completion += usage.completion
        else:
            row.completion += exchange.produced

    # ---- a scrape

    def fill(self, page: Page) -> None:
        tokens: dict[tuple[str, str], list[int]] = {}
        latency: dict[tuple[str, str], Tally] = {}
        first: dict[str, Tally] = {}
        retries: dict[str, int] = {}
        hits, misses = self._past_hits, self._past_misses
        self._fill_requests(page)
        for (model, endpoint, _, pool), row in self._rows.items():
            hits, misses = hits + row.hits, misses + row.misses
            if model == NO_MODEL:
                continue
            spent = tokens.setdefault((model, pool), [0, 0])
            spent[0] += row.prompt
            spent[1] += row.completion
            retries[model] = retries.get(model, 0) + row.retries
            if any(row.latency.counts):
                latency.setdefault((model, endpoint), Tally(LATENCY_S)).add(row.latency)
            if any(row.first.counts):
                first.setdefault(model, Tally(FIRST_TOKEN_S)).add(row.first)
        for (model, pool), (prompt, completion) in tokens.items():
            page.add("llm_tokens_total", prompt, model, "prompt", pool)
            page.add("llm_tokens_total", completion, model, "completion", pool)
        for labels, tally in latency.items():
            page.add_tally("llm_latency_seconds", tally, *labels)
        for model, tally in first.items():
            page.add_tally("llm_time_to_first_token_seconds", tally, model)
        for model, count in retries.items():
            page.add("llmsup_retries_total", count, model)
        for op, count in {"hit": hits, "miss": misses, "store": 0, "evict": 0, "coalesced": 0}.items():
            page.add("llm_cache_operations_total", count, op)
        self._fill_rest(page)

    def _fill_requests(self, page: Page) -> None:
        """Failures have their series before there are any: the first of a series that begins with 1 is no increase."""
        counts: dict[tuple[str, str, int, str], int] = {}
        for (model, endpoint, status, pool), row in self._rows.items():
            if endpoint in PROBES:
                continue
            for failure in FAILURES if model != NO_MODEL else ():
                counts.setdefault((model, endpoint, failure, pool), 0)
            counts[model, endpoint, status, pool] = row.requests
        for (model, endpoint, status, pool), count in counts.items():
            page.add("llm_requests_total", count, model, endpoint, str(status), pool)

    def _fill_rest(self, page: Page) -> None:
        page.add_tally("llmsup_queue_wait_seconds", self._waits)
        page.add_tally("llmsup_proxy_overhead_seconds", self._overhead)
        for outcome, count in self._streams.items():
            page.add("llmsup_continued_streams_total", count, outcome)
        for name, of_key in self._keys.items():
            page.add("llmsup_key_requests_total", of_key.requests, name)
            page.add("llmsup_key_tokens_total", of_key.prompt, name, "prompt")
            page.add("llmsup_key_tokens_total", of_key.completion, name, "completion")
