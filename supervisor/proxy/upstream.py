"""7 Over which connection? The pool of kept-alive connections to one generation of a child.

llama-server closes a connection that was idle for 5 s, and each after its 100th answer, so an idle
one is used for 4 s at most. One that turns out to be closed at use is replaced once, silently, while
no byte of an answer has come; a connection that breaks otherwise is a matter for `admission`.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import Protocol

import structlog

from supervisor.clock import Clock
from supervisor.errors import LlmsupError, UpstreamCrashed, UpstreamFailed
from supervisor.events import Endpoint
from supervisor.proxy.continuation import CannotContinue
from supervisor.proxy.headers import Framing
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.relay import NO_HEAD, Relay
from supervisor.proxy.stillness import Swept, is_ping
from supervisor.proxy.stream import ClientStream
from supervisor.proxy.usage import of_body

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")

IDLE_S = 4.0
CONNECT_TIMEOUT_S = 5.0


class Owner(Protocol):
    """Who the requests belong to while they are under way; `admission.Gate`."""

    def lost(self, exchange: Exchange, error: LlmsupError) -> None:
        """No byte of an answer has gone out, and none will come this time."""

    def doubt(self) -> None:
        """The child refused or dropped a connection for no reason known here."""

    def retries(self, exchange: Exchange, status: int) -> bool:
        """Whether an answer with this status is asked for again."""


class Upstream(Relay):
    """One connection to llama-server."""

    __slots__ = ("_paused", "_pool", "_reused", "idle_since", "quiet_since", "seen")

    def __init__(self, pool: "Pool") -> None:
        super().__init__()
        self._pool = pool
        self._reused = False
        self._paused = False
        self.idle_since = 0.0
        self.seen: bytes | None = None  # `last` at the latest sweep
        self.quiet_since = 0.0

    def __repr__(self) -> str:
        return f"<Upstream to {self._pool} for {self.exchange}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._phase = self._unexpected

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        self.expect_answer(exchange)
        self.seen = None
        exchange.upstream = self
        if exchange.connection.stalled_since is not None:
            self.pause()
        self._transport.write(self._pool.message(exchange))
        exchange.sent_at = self._pool.clock.now()

    def cancel(self) -> None:
        """The client has left: closing is what makes llama-server stop generating."""
        self.exchange = None
        self._transport.abort()

    def close(self) -> None:
        self._transport.abort()

    def give_up(self, error: LlmsupError) -> None:
        """It has stood still for too long: the client is told, and this is not tried again."""
        exchange = self._release()
        self._pool.forget(self)
        self._transport.abort()
        exchange.final = True
        self._fail(exchange, error)

    def pause(self) -> None:
        """The client does not keep up."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def look(self, now: float) -> bool:
        """Whether anything but pings has come since the look before."""
        last, seen, self.seen = self.last, self.seen, self.last
        said = last is not seen and last != b"" and not (self._head.event_stream and is_ping(last))
        if said or seen is None:
            self.quiet_since = now
        return said

    # ---- how an answer ends

    def _release(self) -> Exchange:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None  # noqa: S101  it ends once
        self._phase = self._unexpected
        exchange.upstream = None
        return exchange

    def completed(self, *, reusable: bool) -> None:
        exchange = self._release()
        exchange.served = True
        if exchange.leased:
            self._pool.answered |= self._head.status == 200
            meter = exchange.meter
            exchange.usage = meter.usage() if meter is not None else of_body(self.last)
        self.last = b""  # which may be large
        self._put_back(reusable=reusable)
        exchange.connection.finish(exchange)

    def _put_back(self, *, reusable: bool) -> None:
        self.resume()
        if reusable:
            self._reused = True
            self._pool.give_back(self)
        else:
            self._pool.forget(self)
            self._transport.abort()  # `close` would wait for the rest of a body that nobody reads

    def broken(self, error: LlmsupError) -> None:
        exchange = self._release()
        self._pool.forget(self)
        self._transport.abort()
        self._fail(exchange, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self.exchange is not None:
            self._lost(exc)
        self.untie()

    def _lost(self, exc: Exception | None) -> None:
        begun = self.answer_begun
        exchange = self._release()
        # Of an answer that is to be continued, there may be no head yet: what has ended then is not the answer.
        headed = self._head is not NO_HEAD
        if headed and exchange.answering and self._head.framing is Framing.UNTIL_CLOSE and exc is None:
            exchange.connection.finish(exchange)
        elif self._reused and not begun and not self._pool.closed:
            self._pool.connect(exchange)
        else:
            self._fail(exchange, self._pool.crashed())

    def _fail(self, exchange: Exchange, error: LlmsupError) -> None:
        stream = exchange.stream
        if not exchange.answering:
            self._pool.owner.lost(exchange, error)
        elif stream is None:
            self.cut(exchange, error)
        elif exchange.final:
            stream.cut(error)
        else:
            self._continue(exchange, stream, error)

    def _continue(self, exchange: Exchange, stream: ClientStream, error: LlmsupError) -> None:
        """In the middle of a stream that has been kept: somebody else may finish it."""
        try:
            if stream.resume():
                self._pool.owner.lost(exchange, error)
            else:
                stream.close()
        except CannotContinue as why:
            log.warning("stream cut", **exchange.names, because=str(why))
            stream.cut(UpstreamCrashed(f"{error.message}, and what follows could not be right: {why}"))

    def once_more(self, *, strange: bool, reusable: bool) -> None:
        exchange = self._release()
        self._pool.strange |= strange
        exchange.attempts -= 1
        self._put_back(reusable=reusable)
        self._pool.send(exchange)

    def wants_again(self, exchange: Exchange, status: int) -> bool:
        return self._pool.owner.retries(exchange, status)


class Pool:
    """The connections to one generation. ``closed``: that generation is over."""

    def __init__(self, endpoint: Endpoint, model: str, owner: Owner, clock: Clock) -> None:
        self.owner = owner
        self.closed = False
        self.strange = False  # its streams cannot be assembled: what is not to be streamed is asked as it is
        self.answered = False  # work has been done, since the latest sweep
        self._endpoint = endpoint
        self._model = model
        self.clock = clock
        self._idle: list[Upstream] = []
        self._busy: set[Upstream] = set()
        self._connecting: dict[asyncio.Task[Upstream], Exchange] = {}
        # The child's own key in place of whatever the client sent, which is for us alone.
        self._preamble = b" HTTP/1.1\r\nHost: %b:%d\r\nAuthorization: Bearer %b\r\n" % (
            endpoint.host.encode(),
            endpoint.port,
            endpoint.api_key.encode(),
        )

    def __repr__(self) -> str:
        return (
            f"<Pool {self._model} at {self._endpoint.port}: {len(self._busy)} busy, {len(self._idle)} idle>"
        )

    def message(self, exchange: Exchange) -> bytes:
        """The request as llama-server gets it: framed by us, whatever the client's framing was."""
        fields = exchange.fields
        body = exchange.body if exchange.outgoing is None else exchange.outgoing
        framed = bool(body) or fields.length is not None or fields.chunked
        return b"%b %b%btraceparent: %b\r\n%b%b\r\n%b" % (
            exchange.method,
            exchange.outgoing_target or exchange.target,
            self._preamble,
            exchange.trace,
            fields.passed,
            b"Content-Length: %d\r\n" % len(body) if framed else b"",
            body,
        )

    def crashed(self) -> LlmsupError:
        return UpstreamCrashed(
            f"llama-server ({self._model}) died while it answered", hint="send the request again"
        )

    def send(self, exchange: Exchange) -> None:
        exchange.attempts += 1
        if exchange.assembled and self.strange:
            exchange.outgoing, exchange.assembled = None, False
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream.usable:
                self._busy.add(upstream)
                upstream.send(exchange)
                return
        self.connect(exchange)

    def connect(self, exchange: Exchange) -> None:
        task = asyncio.create_task(self._open(), name="upstream.connect")
        self._connecting[task] = exchange
        task.add_done_callback(self._connected)

    async def _open(self) -> Upstream:
        upstream = Upstream(self)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self.dial(upstream)
        return upstream

    async def dial(self, upstream: Upstream) -> None:
        """Connect it. Raises OSError."""
        endpoint = self._endpoint
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: upstream, endpoint.host, endpoint.port)

    def _connected(self, task: asyncio.Task[Upstream]) -> None:
        exchange = self._connecting.pop(task)
        if task.cancelled() or (error := task.exception()) is not None:
            if not exchange.gone:
                self.not_connected(exchange, None if task.cancelled() else error)
            return
        upstream = task.result()
        if self.closed:
            upstream.close()
            if not exchange.gone:
                self.owner.lost(exchange, self.crashed())
        elif exchange.gone:
            self.give_back(upstream)
        elif not upstream.usable:  # its end came before we could use it, and is not told again
            self.owner.lost(exchange, self.crashed())
        else:
            self._busy.add(upstream)
            upstream.send(exchange)

    def not_connected(self, exchange: Exchange, error: BaseException | None) -> None:
        why = "was stopped" if error is None else f"took no connection: {error}"
        self.owner.doubt()
        failed = UpstreamFailed(f"llama-server ({self._model}) {why}")
        if isinstance(error, TimeoutError):
            failed.reason = "ETIMEDOUT"
        elif isinstance(error, OSError) and error.errno is not None:
            failed.reason = errno.errorcode.get(error.errno)
        self.owner.lost(exchange, failed)

    def give_back(self, upstream: Upstream) -> None:
        self._busy.discard(upstream)
        upstream.idle_since = self.clock.now()
        self._idle.append(upstream)

    def forget(self, upstream: Upstream) -> None:
        self._busy.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)

    def close(self) -> None:
        """The generation is over: whoever waits for it is told by `connection_lost`."""
        self.closed = True
        for task in self._connecting:
            task.cancel()
        for upstream in [*self._busy, *self._idle]:
            upstream.close()

    def sweep(self, now: float, silence: Callable[[Upstream, float], None]) -> Swept:
        """Once a second: close what has idled, and report answers that have stood still, with seconds."""
        for upstream in [u for u in self._idle if now - u.idle_since >= IDLE_S]:
            self._idle.remove(upstream)
            upstream.close()
        moved, self.answered = self.answered, False
        watched = 0
        for upstream in list(self._busy):
            exchange = upstream.exchange
            if exchange is None or exchange.connection.stalled_since is not None:
                upstream.seen = None  # its client does not read: whatever stands still, it is not the child
                continue
            advanced = upstream.look(now)
            if exchange.leased:
                watched += 1
                moved |= advanced
            if not advanced:
                silence(upstream, now - upstream.quiet_since)
        return Swept(watched, moved)
