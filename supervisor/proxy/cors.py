"""Which web pages of other origins may ask (WHATWG Fetch, "CORS protocol"): by configuration only; none, unless it says so.

llama-server allows every page everything, which would let any site that a user opens talk to the models of
the machine. Its lines are left out by `headers`; what is allowed here is written by us, on every answer that
belongs to a request, refusals included. What never became a request (400, 408, 413, 431) has no origin and gets no such
line. Preflights are answered here, before anybody asks who it is: browsers send them without credentials.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.errors import BadRequest
from supervisor.proxy import cached, ingress
from supervisor.proxy.decision import Answer, Decision
from supervisor.proxy.inflight import Exchange

EXPOSED = (
    b"x-request-id, x-llmsup-client, x-llmsup-retries, x-llmsup-queue-ms, RateLimit-Policy, RateLimit, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
    b"Retry-After, retry-after-ms"
)
METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
ANY = "*"
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,2048}\Z")  # names of header fields, a list of them
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsRules:
    """As configured. ``headers``: what a page may send; with `ANY` in it, whatever it asks for."""

    origins: tuple[str, ...]
    headers: tuple[str, ...]
    credentials: bool
    max_age_s: int


class Cors:
    """Writes the lines of one configuration. Whether a request may be asked is not decided: browsers do that."""

    def __init__(self, rules: CorsRules) -> None:
        self._any = ANY in rules.origins
        self._origins = _encoded(rules.origins)
        self._headers = None if ANY in rules.headers else b", ".join(_encoded(rules.headers))
        self._max_age_s = rules.max_age_s
        self._credentials = b"Access-Control-Allow-Credentials: true\r\n" if rules.credentials else b""
        # A cache must not show one origin the answer to another, nor to none.
        self._vary = b"" if self._any else b"Vary: Origin\r\n"
        self._exposed = b"Access-Control-Expose-Headers: %b\r\n" % EXPOSED

    def before(self, check: Callable[[Exchange], Decision]) -> Callable[[Exchange], Decision]:
        """Stage 1 with the lines set first, so that its refusals have them too."""

        def decide(exchange: Exchange) -> Decision:
            return self.apply(exchange) or check(exchange)

        return decide

    def apply(self, exchange: Exchange) -> Decision:
        """Set the answer's lines; a preflight is answered."""
        fields = exchange.fields
        allowed = self._allowed(fields.origin)
        if allowed and not _for_pages(exchange):
            allowed = b""
        if exchange.method == b"OPTIONS" and fields.origin is not None and fields.asks_method is not None:
            exchange.lines = self._vary + (allowed and allowed + self._granted(fields.asks_headers))
            return Answer(_NO_CONTENT, b"")
        exchange.lines = self._vary + (allowed and allowed + self._exposed)
        return None

    def _allowed(self, origin: bytes | None) -> bytes:
        if origin is None or not (self._any or origin in self._origins):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n%b" % (b"*" if self._any else origin, self._credentials)

    def _granted(self, asked: bytes | None) -> bytes:
        lines = b"Access-Control-Allow-Methods: %b\r\nAccess-Control-Max-Age: %d\r\n" % (
            METHODS,
            self._max_age_s,
        )
        names = self._headers
        if names is None:
            names = asked if asked is not None and _NAMES.match(asked) else b""
        return lines + b"Access-Control-Allow-Headers: %b\r\n" % names if names else lines


def _for_pages(exchange: Exchange) -> bool:
    """Figures of all clients are for no page, whoever may ask for answers."""
    try:
        ingress.normalise(exchange)
    except BadRequest:  # it is told so in a moment
        return True
    return not exchange.path.startswith(cached.METRICS)


def _encoded(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(text.encode("ascii") for text in texts if text != ANY)
