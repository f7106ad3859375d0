"""One line for each request that has ended, in a file of its own: llmsup-access.log.

It is not in llmsup.log, which a busy hour would push everything else out of, and not on stderr, whose reader may be
slow: lines are handed to the file's thread (`observe.logfile`), which drops and says so when there is too much. They
go there a tenth of a second's worth at a time, as waking a thread costs more than making a line.

The logger is structlog's, with one processor in place of the usual chain: that one writes the JSON of this one kind of
entry, whose keys are known, in a tenth of the time. Nothing is redacted: the only texts are names, a path and ids, and
secrets are not in them (a key is known by its name).
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
from structlog.typing import EventDict

from supervisor.proxy import cached
from supervisor.proxy.inflight import Exchange

FLUSH_S, FLUSH_LINES = 0.1, 256
LEFT_OUT_S = 1.0  # how long lines that are left out are counted before that is said
PATH_MAX_BYTES = 256  # of what a client writes; what is cut ends in dots
# Refusals beyond so many in a second, of one client and of all, are told in one line for each client: a flood of
# them would otherwise fill the file, and push out the lines of others.
REFUSALS_OF_ONE, REFUSALS = 10, 200
CLIENTS_MAX = 100  # with a line of their own about what was left out; the others share one
OTHERS = "(others)"
_QUIET = frozenset({*cached.HEALTH, cached.METRICS})  # asked every few seconds by machines: nobody reads that
_text = json.encoder.encode_basestring_ascii  # in quotes, and safe whatever a client has written
_LINE = (
    '{"event":"request","logger":"access","level":"info","timestamp":"%s.%03dZ","request_id":%s,"trace_id":"%s",'
    '"client":%s,"pool":%s,"key":%s,"method":%s,"path":%s,"model":%s,"status":%d,"prompt_tokens":%s,"completion_tokens":%s,'
    '"cached_tokens":%s,"queue_s":%.6f,"first_token_s":%s,"total_s":%.6f,"retries":%d,"continued":%d}\n'
)


Later = Callable[[float, Callable[[], None]], object]


_LEFT_OUT = '{"event":"requests_left_out","logger":"access","level":"info","timestamp":"%s.%03dZ","client":%s,"count":%d}\n'


class _Refusals:
    """Those of this second: how many were told, and of whom how many were not."""

    __slots__ = ("_at", "_of", "_told", "left_out")

    def __init__(self) -> None:
        self._at, self._told = -1, 0
        self._of: dict[str, int] = {}
        self.left_out: Counter[str] = Counter()

    def tells(self, client: str, second: int) -> bool:
        """Whether one more is to be told in full."""
        if second != self._at:
            self._at, self._told = second, 0
            self._of.clear()
        told = self._of.get(client, 0)
        if self._told < REFUSALS and told < REFUSALS_OF_ONE:
            self._told += 1
            self._of[client] = told + 1
            return True
        known = client in self.left_out or len(self.left_out) < CLIENTS_MAX
        self.left_out[client if known else OTHERS] += 1
        return False


class _Second:
    """The wall clock's second as text, made once a second."""

    __slots__ = ("_at", "_text")

    def __init__(self) -> None:
        self._at, self._text = -1, ""

    def text(self, second: int) -> str:
        if second != self._at:
            self._at, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._text


class _Logger(structlog.BoundLoggerBase):
    """structlog's, for this kind of entry."""

    def request(self, exchange: Exchange, now: float) -> None:
        self._proxy_to_logger("append", None, exchange=exchange, now=now)


class AccessLog:
    """``put`` takes whole lines; ``later`` calls after so many seconds; ``wall_ns``: nanoseconds since 1970."""

    def __init__(
        self, put: Callable[[bytes], None], later: Later, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._put = put
        self._later = later
        self._lines: list[str] = []
        self._wall_ns = wall_ns
        self._second = _Second()
        self._refusals = _Refusals()
        self._log = _Logger(self._lines, processors=[self._render], context={})

    def tell(self, exchange: Exchange, now: float) -> None:
        """The request has ended."""
        if exchange.path in _QUIET and exchange.status < 400:
            return
        if exchange.unserved and not self._refusals.tells(exchange.client.name, int(now)):
            if len(self._refusals.left_out) == 1 == self._refusals.left_out.total():
                self._later(LEFT_OUT_S, self._tell_left_out)
            return
        if not self._lines:
            self._later(FLUSH_S, self.flush)
        self._log.request(exchange, now)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def _tell_left_out(self) -> None:
        """One line for each client of whom there are lines missing."""
        wall_ns = self._wall_ns()
        second, ms = self._second.text(wall_ns // 1_000_000_000), wall_ns // 1_000_000 % 1000
        for client, count in self._refusals.left_out.items():
            self._lines.append(_LEFT_OUT % (second, ms, _text(client), count))
        self._refusals.left_out.clear()
        self.flush()

    def close(self) -> None:
        """The last lines."""
        self._tell_left_out()

    def flush(self) -> None:
        """Hand over what there is."""
        if self._lines:
            self._put("".join(self._lines).encode("ascii"))
            self._lines.clear()

    def _render(self, _: Any, __: str, entry: EventDict) -> str:
        return self.line(entry["exchange"], entry["now"])

    def line(self, exchange: Exchange, now: float) -> str:
        wall_ns = self._wall_ns()
        client, gate, usage, first = (
            exchange.client,
            exchange.gate,
            exchange.usage,
            exchange.first_token_at,
        )
        key = client.key
        return _LINE % (
            self._second.text(wall_ns // 1_000_000_000),
            wall_ns // 1_000_000 % 1000,
            _text(exchange.id.decode("latin-1")),
            exchange.trace[3:35].decode("latin-1"),
            _text(client.name),
            _text(client.pool),
            "null" if key is None else _text(key.name),
            _text(exchange.method.decode("latin-1")),
            _text(_cut(exchange.path)),
            "null" if gate is None else _text(gate.view.name),
            exchange.status,
            "null" if usage is None else usage.prompt,
            exchange.produced or "null" if usage is None else usage.completion,
            "null" if usage is None else usage.cached,
            exchange.waited_s,
            "%.6f" % (first - exchange.received_at) if first else "null",
            now - exchange.received_at,
            max(0, exchange.attempts - 1),
            exchange.continued,
        )


def _cut(path: bytes) -> str:
    text = path.decode("latin-1")
    return text if len(text) <= PATH_MAX_BYTES else text[: PATH_MAX_BYTES - 3] + "..."
