"""The line to Redis: one connection, over which everything that is asked at the same time goes together.

While an answer is out, what is asked meanwhile gathers, and goes out in one write when the answer is there: the more
is asked, the less each costs, and calls stay in order. Redis is *away* when it cannot be reached, does not answer in
time, or answers that it cannot serve. Then whoever asks is told at once, and the line looks for it again by itself,
pausing longer and longer. Each outage is one line in the log, and its end another.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from supervisor.clock import Clock
from supervisor.errors import ConfigError
from supervisor.ratelimit import store_script

if TYPE_CHECKING:
    from redis.asyncio import Redis

log: structlog.stdlib.BoundLogger = structlog.get_logger("limits")

CONNECT_S = 2.0  # to connect, log in and load the scripts; nobody waits for so long
IDLE_S = 1.0  # then it is asked whether it still answers, so that no request is the first to find out
STEADY_S = 5.0  # a connection that lived for less is no reason to try the next sooner
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
MAX_BATCH = 512  # calls in one write: some 40 ms of Redis's time, during which it serves nobody else's
MAX_POSTS = 10_000  # kept while Redis is away
PORT = 6379

# How Redis says that it cannot serve, by the name that redis-py gives it.
STATES = {
    "AuthenticationError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}
STATE_WORDS = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")  # these have no class of their own


class State(StrEnum):
    CONNECTING = "connecting"  # for the first time: whoever asks waits for it
    CONNECTED = "connected"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer. ``perhaps_done``: it was sent, so that Redis may have done it all the same."""

    reason: str
    perhaps_done: bool


@dataclass(slots=True)
class Call:
    """``done`` is called once, with the answer. ``lasting``: it is sent again until it is answered."""

    script: str
    keys: Sequence[str]
    words: Sequence[str | int]
    done: Callable[[bytes | Lost], None] = field(default=lambda _: None)
    lasting: bool = False
    asked_at: float | None = None  # where somebody waits


PROBE = Call("renew", (store_script.PROBE_KEY,), (1_000_000, "probe"))


class _AwayError(Exception):
    """Redis has answered that it cannot serve."""


class Line:
    """``url``: of redis-py's form; ``deadline_s``: for each answer; ``on_connected``: called at each new connection."""

    def __init__(
        self, url: str, *, clock: Clock, deadline_s: float, on_connected: Callable[[], None]
    ) -> None:
        self.address = address_of(url)
        self._open = _opener(url, self.address)
        self._clock = clock
        self._deadline_s = deadline_s
        self._on_connected = on_connected
        self._asks: deque[Call] = deque()
        self._posts: deque[Call] = deque()
        self._flying: list[Call] = []
        self._wake = asyncio.Event()
        self._done = asyncio.Event()  # nothing posted is left, or nothing will come of it now
        self._done.set()
        self._hashes: dict[str, str] = {}
        self._odd = False  # an answer that concerns one call only was logged
        self.state = State.CONNECTING
        self.reason = "not connected yet"
        self._patience: asyncio.TimerHandle | None = None  # of those who ask before the first connection
        self.since: datetime = clock.wall()
        self.dropped = 0  # posts that did not fit
        self._pause_s = FIRST_PAUSE_S
        self._changed_at = clock.now()

    def __repr__(self) -> str:
        return f"<Line to {self.address}, {self.state}, {len(self._asks)} asked, {len(self._posts)} posted>"

    @property
    def retry_s(self) -> float:
        """How long until Redis is looked for again, at most."""
        return self._pause_s

    @property
    def posted(self) -> int:
        """Calls that nobody waits for and that are still to be done."""
        return len(self._posts) + sum(call.asked_at is None for call in self._flying)

    def ask(self, call: Call) -> bool:
        """False: Redis is away, and nothing will come of it."""
        if self.state is State.AWAY:
            return False
        if self.state is State.CONNECTING and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(self._deadline_s, self._out_of_patience)
        call.asked_at = self._clock.now()
        self._asks.append(call)
        self._wake.set()
        return True

    def post(self, call: Call) -> None:
        """To be done some time, in their order. Redis must not mind doing a lasting one twice."""
        if len(self._posts) >= MAX_POSTS:
            self._posts.popleft()
            self.dropped += 1
        self._posts.append(call)
        self._wake.set()
        if self.state is not State.AWAY:
            self._done.clear()

    async def flush(self) -> None:
        """Until everything posted is done, or Redis is away."""
        if self.state is not State.AWAY:
            await self._done.wait()

    async def run(self) -> None:
        """For ever: connect, pass on what is asked, and begin anew."""
        from redis.exceptions import RedisError

        try:
            while True:
                client = self._open()
                try:
                    await self._serve(client)
                except (RedisError, OSError, _AwayError) as error:  # TimeoutError is an OSError
                    self._away(self._reason(error))
                except Exception:
                    # A defect, ours or redis-py's, is no reason to leave the requests without a verdict.
                    log.exception("the line to the store of limits broke", store=self.address)
                    self._away("it broke inside llmsup")
                finally:
                    await _close(client)
                await self._clock.sleep(self._pause_s)
        finally:
            self._away("llmsup ends", tell=False)

    async def _serve(self, client: "Redis") -> None:
        async with asyncio.timeout(CONNECT_S):
            await self._load(client)
            await self._execute(client, [PROBE])
        self._connected()
        while True:
            await self._something(client)
            batch = self._flying = self._next_batch()
            async with asyncio.timeout(self._left_s(batch)):
                answers = await self._execute(client, batch)
            self._flying = []
            self._deliver(batch, answers)
            if not self._posts:
                self._done.set()

    async def _something(self, client: "Redis") -> None:
        """Wait until there is something to pass on, and see now and then whether Redis is still there."""
        while not self._asks and not self._posts:
            self._wake.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._wake.wait()
            except TimeoutError:
                async with asyncio.timeout(self._deadline_s):
                    await self._execute(client, [PROBE])

    def _next_batch(self) -> list[Call]:
        """What is posted first: whoever asks after a refund is to see it. But a place is always left for those who ask."""
        posts = [self._posts.popleft() for _ in range(min(len(self._posts), MAX_BATCH // 2))]
        return posts + [self._asks.popleft() for _ in range(min(len(self._asks), MAX_BATCH - len(posts)))]

    def _left_s(self, batch: Sequence[Call]) -> float:
        """Of the deadline of whoever has waited longest."""
        asked_at = next((call.asked_at for call in batch if call.asked_at is not None), None)
        if asked_at is None:
            return self._deadline_s
        return max(0.001, self._deadline_s - (self._clock.now() - asked_at))

    async def _load(self, client: "Redis") -> None:
        for name in store_script.NAMES:
            self._hashes[name] = str(await client.script_load(store_script.source(name)))

    async def _execute(self, client: "Redis", batch: Sequence[Call]) -> list[Any]:
        """The answers, errors among them; raises when Redis cannot serve."""
        answers = await self._send(client, batch)
        unknown = [index for index, answer in enumerate(answers) if _name(answer) == "NoScriptError"]
        if unknown:  # somebody has made Redis forget its scripts
            await self._load(client)
            again = await self._send(client, [batch[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        if batch[0] is PROBE and isinstance(answers[0], Exception):
            raise answers[0]
        return answers

    async def _send(self, client: "Redis", batch: Sequence[Call]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for call in batch:
            pipeline.evalsha(self._hashes[call.script], len(call.keys), *call.keys, *call.words)
        return list(await pipeline.execute(raise_on_error=False))

    def _deliver(self, batch: Sequence[Call], answers: Sequence[Any]) -> None:
        away = next((answer for answer in answers if _cannot_serve(answer)), None)
        lost: list[Call] = []
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, bytes):
                call.done(answer)
            elif _cannot_serve(answer):
                lost.append(call)
            else:  # it is about this call alone: another program uses our keys, or we are wrong
                if not self._odd:
                    self._odd = True
                    log.error("redis refuses a call of ours", script=call.script, reason=str(answer))
                call.done(Lost(str(answer), perhaps_done=False))
        if away is not None:
            self._lose(lost, self._reason(away), perhaps_done=False)
            raise _AwayError(self._reason(away))

    def _lose(self, calls: Sequence[Call], reason: str, *, perhaps_done: bool) -> None:
        """Those that last are put before whatever was posted after them: a lease is not renewed when it is given back."""
        self._posts.extendleft(call for call in reversed(calls) if call.lasting)
        for call in calls:
            if not call.lasting:
                call.done(Lost(reason, perhaps_done))

    def _connected(self) -> None:
        was, away_s = self.state, self._clock.now() - self._changed_at
        self._change(State.CONNECTED, "")
        self._odd = False
        if was is State.AWAY:
            log.warning("the store of limits is back", store=self.address, away_s=round(away_s, 1))
        else:
            log.info("the store of limits is connected", store=self.address)
        if self._posts:
            self._done.clear()
        self._on_connected()

    def _away(self, reason: str, *, tell: bool = True) -> None:
        """From here on nobody waits; who waits already is told."""
        if self.state is not State.AWAY:
            steady = self._clock.now() - self._changed_at >= STEADY_S
            self._pause_s = FIRST_PAUSE_S if steady else self._longer()
            self._change(State.AWAY, reason)
            if tell:
                log.warning("the store of limits is away", store=self.address, reason=reason)
        else:
            self._pause_s = self._longer()
            self.reason = reason
        flying, self._flying = self._flying, []
        asks, self._asks = list(self._asks), deque()
        self._lose(flying, reason, perhaps_done=True)
        self._lose(asks, reason, perhaps_done=False)
        self._done.set()

    def _out_of_patience(self) -> None:
        if self.state is State.CONNECTING:
            self._away(f"not connected within {self._deadline_s:g} s")

    def _longer(self) -> float:
        return min(LONGEST_PAUSE_S, 2 * self._pause_s)

    def _change(self, state: State, reason: str) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self.state, self.reason, self.since = state, reason, self._clock.wall()
        self._changed_at = self._clock.now()

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError) or _name(error) == "TimeoutError":
            return f"no answer within {self._deadline_s:g} s"
        state = STATES.get(_name(error))
        return f"{state}: {error}" if state else str(error) or _name(error)


def address_of(url: str) -> str:
    """Without user, password and options, for people to read."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or PORT}/{parts.path.strip('/') or 0}"


def _opener(url: str, address: str) -> Callable[[], "Redis"]:
    """Makes clients; ConfigError if none can be made."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise ConfigError(
            f"limits.store is {address}, but the Python package redis is not installed",
            hint="pip install 'llmsup[redis]', or set limits.store to memory",
        ) from None

    def opened() -> "Redis":
        retry = Retry(NoBackoff(), 0)  # when and how often is decided here
        return Redis.from_url(url, protocol=2, retry=retry, socket_timeout=None, decode_responses=False)

    try:
        opened().connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py has no types here; nothing is sent yet
    except (TypeError, ValueError):  # whose words may hold the password
        raise ConfigError(
            f"limits.store is {address}, with an option that redis-py does not know", hint="see its from_url"
        ) from None
    return opened


async def _close(client: "Redis") -> None:
    """At once: what is still out is of no interest any more."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1.0):
            await client.aclose()


def _name(error: object) -> str:
    return type(error).__name__


def _cannot_serve(answer: object) -> bool:
    return _name(answer) in STATES or (isinstance(answer, Exception) and str(answer).startswith(STATE_WORDS))
