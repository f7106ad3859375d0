"""The proxy alone, in this process: a thread with an event loop of its own, no daemon and no child.

    with ScriptedUpstream() as upstream, ProxyRig() as rig:
        rig.ready(upstream.port)
        assert rawhttp.ask(rig.port, "GET", "/health").status == 200

The instance is played by hand: `ready`, `state`, and `answers_pokes` for one that lives. Leaving checks that
nothing is left: no request, no lease, no waiter, no counted byte, and nothing the event loop complained of.
"""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Self, TypeVar

import uvloop

from supervisor.clock import Clock, SystemClock
from supervisor.errors import LlmsupError
from supervisor.events import Death, Endpoint, InstanceView
from supervisor.keys.ring import Keyring
from supervisor.listen import Listener
from supervisor.proxy.admission import Admission
from supervisor.proxy.bounds import Bounds, RetryBounds
from supervisor.proxy.breaker import BreakerBounds
from supervisor.proxy.cors import CorsRules
from supervisor.proxy.inflight import Exchange, InFlight
from supervisor.proxy.limits import Limits, unlimited
from supervisor.proxy.pipeline import Pipeline, Wiring
from supervisor.proxy.server_names import ServerNames
from supervisor.proxy.ties import Ties
from supervisor.proxy.turns import Share
from supervisor.proxy.upload import BodyBudget
from supervisor.proxy.wire import ClientConnection
from supervisor.ratelimit.limiter import Limiter
from supervisor.ratelimit.pools import Pool
from supervisor.types import MIB, Generation, ModelName
from tests.support import rawhttp

T = TypeVar("T")
Headers = Mapping[str, str] | Iterable[tuple[str, str]]

DEMO = ModelName("demo")
KEY = "key-of-generation-"
DEADLINE_S = 5.0
POLL_S = 0.002
SWEEP_S = 0.02  # a second in the daemon; the limits tests set are short likewise
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def until(condition: Callable[[], T], what: str, within_s: float = DEADLINE_S) -> T:
    """The first true value; AssertionError when there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return value


def view(
    state: str = "READY",
    *,
    name: str = DEMO,
    port: int | None = None,
    generation: int = 1,
    slots: int = 4,
    checks: int = 0,
    wanted: bool = True,
    next_try_at: float | None = None,
    last_death: Death | None = None,
    suspect: str | None = None,
) -> InstanceView:
    """An instance as the proxy sees it; its generation's key is ``key-of-generation-N``."""
    key = f"{KEY}{generation}"
    return InstanceView(
        name=ModelName(name),
        state=state,
        generation=Generation(generation),
        pid=None,
        endpoint=None if port is None else Endpoint("127.0.0.1", port, key),
        slots=slots,
        model_path="/models/demo.gguf",
        context_size=4096,
        restarts=generation - 1,
        since=0.0,
        spawned_at=None,
        next_try_at=next_try_at,
        wanted=wanted,
        last_death=last_death,
        checks=checks,
        suspect=suspect,
    )


async def _no_canary(_: Endpoint) -> bool:
    return False


class Conversation:
    """One client's connection to the proxy."""

    def __init__(
        self,
        port: int,
        timeout_s: float,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = rawhttp.connect(port, timeout_s, receive_buffer=receive_buffer)
        if tls is not None:
            # An end without a word of good-bye is an error, as it must be where no length is known.
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost", suppress_ragged_eofs=False)
        self.reader = rawhttp.Reader(self.sock)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def post(self, path: str, body: bytes = b"{}", headers: Headers = ()) -> None:
        self.send(rawhttp.request("POST", path, body, headers))

    def get(self, path: str, headers: Headers = ()) -> None:
        self.send(rawhttp.request("GET", path, None, headers))

    def answer(self, *, head_only: bool = False) -> rawhttp.Response:
        return self.reader.response(head_only=head_only)

    def ask(self, path: str, body: bytes = b"{}", headers: Headers = ()) -> rawhttp.Response:
        self.post(path, body, headers)
        return self.answer()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def ends(self) -> bool:
        """Whether the proxy closes, and says nothing more before it does."""
        return not self.reader.buffer and self.reader.is_closed() and not self.reader.buffer

    def rest(self) -> tuple[bytes, bool]:
        """Every byte until the end of the connection, and whether that was a reset."""
        while not self.reader.is_closed():
            pass
        return self.reader.buffer, self.reader.was_reset


class ProxyRig:
    """Admission, pipeline and listener on a free port. Everything of it is touched on its own thread only."""

    def __init__(
        self,
        loop: str = "uvloop",
        *,
        models: tuple[str, ...] = (DEMO,),
        max_body_bytes: int = 32 * MIB,
        trusted_proxies: tuple[str, ...] = ("127.0.0.0/8",),
        pools: Mapping[str, Pool] | None = None,
        shared: Mapping[str, Pool] | None = None,
        clock: Clock | None = None,
        budget_bytes: int | None = None,
        cors: CorsRules | None = None,
        names: ServerNames | None = None,
        tls: ssl.SSLContext | None = None,
        retry: RetryBounds | None = None,
        breaker: BreakerBounds | None = None,
        canary: Callable[[Endpoint], Awaitable[bool]] | None = None,
        keyring: Keyring | None = None,
        require_key: bool = False,
        **bounds: float,
    ) -> None:
        limits: dict[str, Any] = {
            "concurrent": 10,
            "queue_size": 100,
            "queue_timeout_s": 30.0,
            "silence_s": 30.0,
            "retry": retry or RetryBounds(delay_s=0.05),
            "breaker": breaker or BreakerBounds(failure_threshold=1000),
        }
        self.port = 0
        self._tls = tls
        self.pokes: list[tuple[str, int]] = []
        self.answers_pokes = True
        self.sweeps = 0
        self.complaints: list[dict[str, Any]] = []
        self._conversations: list[Conversation] = []
        self._loop = LOOPS[loop]()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._views = {ModelName(name): view("LOADING", name=name) for name in models}
        self._rows = InFlight()
        clock = clock or SystemClock()
        self.admission = Admission(Bounds(**limits | bounds), clock)
        self.admission.shares = {name: Share(one.weight, one.batch) for name, one in (pools or {}).items()}
        ties = Ties(poke=self._poke, reject=self._reject, canary=canary or _no_canary)
        self.admission.open(self._views.values(), ties=ties, send=self._send)
        wiring = Wiring(
            views=self._views,
            default=ModelName(models[0]),
            trusted_proxies=trusted_proxies,
            limits=unlimited(clock)
            if pools is None
            else Limits(Limiter(pools, shared=shared), pools, clock, shared=shared),
            max_connections=10_000,
            max_body_bytes=max_body_bytes,
            clock=clock,
            cors=cors,
            names=names or ServerNames(),
            keyring=keyring,
            require_key=require_key,
        )
        self.pipeline = Pipeline(wiring, self.admission, self._rows)
        if budget_bytes is not None:
            self.pipeline.budget = BodyBudget(budget_bytes)
        self._started, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxyrig", daemon=True)

    # ---- life

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for conversation in self._conversations:
            conversation.close()
        try:
            if kind is None:
                self.check_nothing_left()
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(DEADLINE_S)
        if kind is None:
            assert not self.complaints, self.complaints

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _serve(self) -> None:
        listener = Listener("127.0.0.1", 0)
        self.port = int(str(listener).rpartition(":")[2])
        server = await listener.open(self._loop, lambda: ClientConnection(self.pipeline), self._tls)
        sweeping = asyncio.create_task(self._sweep())
        self._started.set()
        await self._over.wait()
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        server.close()
        for connection in list(self.pipeline.connections):
            connection.reset()
        for name, gate in self.admission.gates.items():
            self.admission.abort(name, gate.view.generation)
        for _ in range(5):  # turns of the loop, for the last connections' ends
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.pipeline.sweep(time.monotonic())
            self.sweeps += 1

    def call(self, work: Callable[[], T]) -> T:
        """Do it on the proxy's thread."""
        result: list[T] = []
        failed: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                result.append(work())
            except BaseException as exc:
                failed.append(exc)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(DEADLINE_S), "the proxy's event loop is stuck"
        if failed:
            raise failed[0]
        return result[0]

    def start(self, work: Coroutine[Any, Any, object]) -> threading.Event:
        """Run a coroutine on the proxy's loop; the event is set when it is done."""
        done = threading.Event()
        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(lambda _: done.set())
        return done

    # ---- clients

    def connect(
        self,
        timeout_s: float = DEADLINE_S,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Conversation:
        """Closed with the rig, if the test has not done so. ``tls``: speak it, as this client would."""
        conversation = Conversation(self.port, timeout_s, receive_buffer=receive_buffer, tls=tls)
        self._conversations.append(conversation)
        return conversation

    def ask(self, path: str, body: bytes = b"{}", headers: Headers = ()) -> rawhttp.Response:
        return rawhttp.ask(self.port, "POST", path, body, headers)

    def get(self, path: str, headers: Headers = ()) -> rawhttp.Response:
        return rawhttp.ask(self.port, "GET", path, None, headers)

    # ---- the instance's part

    def ready(self, port: int, *, generation: int = 1, slots: int = 4, model: str = DEMO) -> None:
        self.publish(view(port=port, generation=generation, slots=slots, name=model))

    def state(
        self,
        state: str,
        *,
        model: str = DEMO,
        wanted: bool = True,
        next_try_s: float | None = None,
        last_death: Death | None = None,
    ) -> None:
        at = None if next_try_s is None else time.monotonic() + next_try_s
        generation = self._views[ModelName(model)].generation
        self.publish(
            view(
                state, name=model, generation=generation, wanted=wanted, next_try_at=at, last_death=last_death
            )
        )

    def publish(self, new: InstanceView) -> None:
        self.call(lambda: self._publish(new))

    def abort(self, generation: int, model: str = DEMO) -> None:
        """The instance's: break what is left of this generation."""
        self.call(lambda: self.admission.abort(ModelName(model), Generation(generation)))

    def _publish(self, new: InstanceView) -> None:
        self._views[new.name] = new
        self.admission.on_view(new)

    def _poke(self, name: ModelName, generation: Generation) -> None:
        self.pokes.append((name, generation))
        if self.answers_pokes:
            self._loop.call_soon(self._say_alive, name, generation)

    def _say_alive(self, name: ModelName, generation: Generation) -> None:
        now = self._views[name]
        if now.ready and now.generation == generation and now.endpoint is not None:
            self._publish(
                view(
                    port=now.endpoint.port,
                    generation=generation,
                    slots=now.slots,
                    name=name,
                    checks=now.checks + 1,
                )
            )

    def _reject(self, exchange: Exchange, error: LlmsupError) -> None:
        self.pipeline.reject(exchange, error)

    def _send(self, exchange: Exchange) -> None:
        self.pipeline.send(exchange)

    # ---- what a test looks at

    def in_flight(self) -> int:
        return self.call(lambda: len(self._rows.rows))

    def total(self) -> int:
        return self.call(lambda: self._rows.total)

    def leases(self) -> int:
        return self.call(lambda: self.admission.leases)

    def waiting(self) -> int:
        return self.call(lambda: self.admission.waiting)

    def connections(self) -> int:
        return self.call(lambda: len(self.pipeline.connections))

    def stalled(self) -> int:
        """Clients that do not read what they are answered."""
        return self.call(lambda: sum(one.stalled_since is not None for one in self.pipeline.connections))

    def held(self) -> int:
        """Clients that are not being read from."""
        return self.call(lambda: sum(bool(one._hold) for one in self.pipeline.connections))

    def busy(self) -> int:
        """Connections to the upstream with a request on them, or being opened for one."""
        pools = [gate._pool for gate in self.admission.gates.values()]
        return self.call(
            lambda: sum(len(pool._busy) + len(pool._connecting) for pool in pools if pool is not None)
        )

    def idle(self) -> int:
        pools = [gate._pool for gate in self.admission.gates.values()]
        return self.call(lambda: sum(len(pool._idle) for pool in pools if pool is not None))

    def left(self) -> dict[str, int]:
        """What must be nothing when nobody asks."""
        gates = self.admission.gates.values()
        return {
            "in flight": self.in_flight(),
            "leases": self.leases() + sum(gate.leases for gate in gates),
            "waiting": self.waiting() + sum(len(gate.waiting) for gate in gates),
            "active": sum(len(gate.active) for gate in gates),
            "busy upstream connections": self.busy(),
            "counted body bytes": self.call(lambda: self.pipeline.budget.used_bytes),
        }

    def check_nothing_left(self, within_s: float = 2.0) -> None:
        deadline = time.monotonic() + within_s
        while any((left := self.left()).values()):
            assert time.monotonic() < deadline, left
            time.sleep(POLL_S)
