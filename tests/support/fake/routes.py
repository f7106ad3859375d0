"""What llama-server serves: one handler a route, and the checks that come before."""

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from tests.support.fake import text
from tests.support.fake.completion import Completion, Form
from tests.support.fake.switches import Switches
from tests.support.fake.wire import BLOCK, Connection, Exchange, Request

if TYPE_CHECKING:
    from tests.support.fake.process import Process

PUBLIC = frozenset({"/health", "/v1/health"})
EMBEDDING_SIZE = 8


class Counters:
    """What /metrics shows; changed under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.prompt_tokens = 0
        self.predicted_tokens = 0
        self.decodes = 0
        self.processing = 0
        self.deferred = 0
        self.completions = 0

    def add(self, name: str, amount: int = 1) -> int:
        """Add to the counter `name` and return what it is now."""
        with self.lock:
            value: int = getattr(self, name) + amount
            setattr(self, name, value)
            return value


class Router:
    """Finds the handler of a request and runs it under the switches in force."""

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.counters = Counters()
        self.slots = threading.Semaphore(process.options.slots)
        # HEAD is served where GET is, as cpp-httplib does.
        self._gets: dict[str, Callable[[Exchange], None]] = {
            "/health": self._health, "/v1/health": self._health, "/props": self._props, "/slots": self._slots,
            "/models": self._models, "/v1/models": self._models, "/metrics": self._metrics, "/echo": self._echo,
        }  # fmt: skip
        self._posts: dict[str, Callable[[Exchange], None]] = {
            "/v1/chat/completions": self._completion(Form.CHAT), "/chat/completions": self._completion(Form.CHAT),
            "/v1/completions": self._completion(Form.TEXT), "/completion": self._completion(Form.NATIVE),
            "/completions": self._completion(Form.NATIVE), "/v1/embeddings": self._embeddings,
            "/tokenize": self._tokenize, "/apply-template": self._apply_template,
        }  # fmt: skip

    def answer(self, connection: Connection, request: Request) -> None:
        try:
            switches = self.process.board.now(wishes_in(request))
        except (ValueError, TypeError) as error:
            Exchange(connection, request, Switches()).error(400, f"fake: {error}", "invalid_request_error")
            return
        exchange = Exchange(connection, request, switches)
        handler = self._find(request)
        is_work = handler is not None and (request.method == "POST" or request.path == "/echo")
        if switches.hang == "all" or (switches.hang == "health" and request.path in PUBLIC):
            connection.wait_until_gone()
        if switches.hang == "loop" and request.path in {"/metrics", "/slots"}:
            connection.wait_until_gone()
        if not is_work:  # the faults of answers belong to the work, not to the probes of it
            exchange = Exchange(connection, request, Switches())
        if not self._authorized(request):
            exchange.error(401, "Invalid API Key", "authentication_error")
        elif handler is None:
            exchange.error(404, "File Not Found", "not_found_error")
        elif not (is_work and self._preempt(exchange)):
            handler(exchange)

    def _find(self, request: Request) -> Callable[[Exchange], None] | None:
        if request.path == "/echo":
            return self._echo
        if request.method in {"GET", "HEAD"}:
            return self._gets.get(request.path)
        return self._posts.get(request.path) if request.method == "POST" else None

    def _authorized(self, request: Request) -> bool:
        keys = self.process.options.keys
        if not keys or request.path in PUBLIC:
            return True
        return (
            request.header("authorization").removeprefix("Bearer ") in keys
            or request.header("x-api-key") in keys
        )

    def _preempt(self, exchange: Exchange) -> bool:
        """Do what the switches ask for before any work; True when that was the answer."""
        switches, process = exchange.switches, self.process
        # At ready the process has indulged its environment once; here only what the request itself asks for.
        process.indulge(Switches(wishes_in(exchange.request)))
        process.crash_if(switches, "request")
        if switches.hang == "request":
            exchange.connection.wait_until_gone()
        if switches.status:
            exchange.error(switches.status, "fake status", "server_error")
        elif switches.big_body:
            self._big(exchange)
        return bool(switches.status or switches.big_body)

    @staticmethod
    def _big(exchange: Exchange) -> None:
        """An answer of exactly `big_body` bytes (JSON), or a stream of so many."""
        size = exchange.switches.big_body
        if b'"stream":true' in exchange.request.body.replace(b" ", b""):
            exchange.start_stream(0)
            for start in range(0, size, len(BLOCK)):
                exchange.chunk(BLOCK[: size - start])
            exchange.end_stream()
        else:
            exchange.whole(b'{"pad":"%b"}' % (b"x" * max(0, size - 10)))

    # -- work

    def _completion(self, form: Form) -> Callable[[Exchange], None]:
        def handle(exchange: Exchange) -> None:
            body = self._body(exchange)
            if body is None:
                return
            if self.counters.add("completions") <= exchange.switches.warmup_fail_n:
                exchange.error(500, "fake: not warm yet", "server_error")
                return
            Completion(self, exchange, form, body).run()

        return handle

    def _embeddings(self, exchange: Exchange) -> None:
        body = self._body(exchange)
        if body is None:
            return
        if not self.process.options.embeddings:
            message = "This server does not support embeddings. Start it with `--embeddings`"
            exchange.error(501, message, "not_supported_error")
            return
        given = body.get("input", "")
        inputs = given if isinstance(given, list) else [given]
        data = [
            {"embedding": vector_of(str(value)), "index": index, "object": "embedding"}
            for index, value in enumerate(inputs)
        ]
        count = sum(text.token_count(str(value)) for value in inputs)
        usage = {"prompt_tokens": count, "total_tokens": count}
        self.counters.add("prompt_tokens", count)
        exchange.json({"model": self.process.options.alias, "object": "list", "usage": usage, "data": data})

    def _tokenize(self, exchange: Exchange) -> None:
        body = self._body(exchange)
        if body is not None:
            words = str(body.get("content", "")).split()
            exchange.json({"tokens": [crc32(word.encode()) & 0xFFFF for word in words]})

    def _apply_template(self, exchange: Exchange) -> None:
        body = self._body(exchange)
        if body is not None:
            exchange.json({"prompt": text.render_chat(text.messages_in(body))})

    def _echo(self, exchange: Exchange) -> None:
        import hashlib  # 5 ms that only this route needs

        request = exchange.request
        exchange.json(
            {
                "method": request.method,
                "path": request.target,
                "version": request.version,
                "headers": request.headers,
                "body_bytes": len(request.body),
                "sha256": hashlib.sha256(request.body).hexdigest(),
            }
        )

    @staticmethod
    def _body(exchange: Exchange) -> dict[str, object] | None:
        """The JSON object of the body; None when an error has been answered."""
        try:
            body = json.loads(exchange.request.body)
        except ValueError as error:
            exchange.error(
                500, f"[json.exception.parse_error.101] {error}", "server_error"
            )  # 500 is llama-server's
            return None
        if not isinstance(body, dict):
            exchange.error(500, "[json.exception.type_error.306] not an object", "server_error")
            return None
        return body

    # -- looking in

    def _health(self, exchange: Exchange) -> None:
        exchange.json({"status": "ok"})

    def _props(self, exchange: Exchange) -> None:
        options = self.process.options
        exchange.json(
            {
                "default_generation_settings": {
                    "params": {"n_predict": options.n_predict},
                    "n_ctx": options.slot_context,
                },
                "total_slots": options.slots,
                "model_alias": options.alias,
                "model_path": options.model,
                "chat_template": "fake chatml",
                "build_info": "b1-fake",
                "is_sleeping": False,
            }
        )

    def _models(self, exchange: Exchange) -> None:
        options = self.process.options
        meta = {"n_ctx": options.slot_context, "n_ctx_train": 8192, "n_params": 1000, "size": 4000}
        model = {
            "id": options.alias,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "llamacpp",
            "meta": meta,
        }
        exchange.json({"object": "list", "data": [model]})

    def _slots(self, exchange: Exchange) -> None:
        options = self.process.options
        if not options.slots_route:
            exchange.error(501, "This server does not support slots endpoint.", "not_supported_error")
            return
        busy = self.counters.processing
        exchange.json(
            [
                {
                    "id": index,
                    "n_ctx": options.slot_context,
                    "is_processing": index < busy,
                    "next_token": [{}],
                }
                for index in range(options.slots)
            ]
        )

    def _metrics(self, exchange: Exchange) -> None:
        if not self.process.options.metrics:
            message = "This server does not support metrics endpoint. Start it with `--metrics`"
            exchange.error(501, message, "not_supported_error")
            return
        counters = self.counters
        rows = [
            ("prompt_tokens_total", "counter", counters.prompt_tokens),
            ("prompt_tokens_cached_total", "counter", 0),
            ("prompt_seconds_total", "counter", counters.prompt_tokens / 1000),
            ("tokens_predicted_total", "counter", counters.predicted_tokens),
            ("tokens_predicted_seconds_total", "counter", counters.predicted_tokens / 1000),
            ("n_decode_total", "counter", counters.decodes),
            ("requests_processing", "gauge", counters.processing),
            ("requests_deferred", "gauge", counters.deferred),
        ]
        lines = [
            f"# HELP llamacpp:{name} fake\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value:g}\n"
            for name, kind, value in rows
        ]
        exchange.whole("".join(lines).encode(), kind="text/plain; version=0.0.4")


def wishes_in(request: Request) -> dict[str, object]:
    """The request's own ``fake`` object: in a JSON body, else in the header ``X-Fake``.

    :raises TypeError: when it is not an object.
    """
    raw = request.header("x-fake")
    wishes: object = json.loads(raw) if raw else {}
    if b'"fake"' in request.body:
        try:
            body = json.loads(request.body)
        except ValueError:
            body = {}
        wishes = body.get("fake", wishes) if isinstance(body, dict) else wishes
    if not isinstance(wishes, dict):
        raise TypeError("`fake` must be an object")
    return wishes


def vector_of(value: str) -> list[float]:
    return [
        (crc32(b"%d" % index, crc32(value.encode())) % 2001 - 1000) / 1000 for index in range(EMBEDDING_SIZE)
    ]
