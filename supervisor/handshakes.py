"""Connections that are still shaking hands: counted from the moment they are accepted, bounded, and given seconds.

asyncio tells a protocol of a TLS connection when its handshake is done, so who connects and says nothing is in nobody's count
until then. Here connections are accepted one by one: while as many as may be are at it, those who
say nothing leave for the next, and where nobody has been silent for long the next waits in the kernel's queue.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

TIMEOUT_S = 5.0  # three round trips around the world and a slow processor
GOODBYE_TIMEOUT_S = 2.0  # for the peer's close_notify, of which nothing depends
MOST = 128  # at once, of all: each costs about a millisecond of the processor when it goes on
OF_ONE = 32  # of one address, if the oldest of them has had its time
HONEST_S = 1.0  # a handshake that takes longer may go first
ACCEPT_PAUSE_S = 0.1  # after an error: no descriptors, for one


class _Shaking:
    """One connection. ``since``: monotonic seconds. Its socket is ours until the loop has made a transport of it."""

    __slots__ = ("peer", "since", "sock", "task")

    def __init__(self, sock: socket.socket, peer: str, since: float) -> None:
        self.sock: socket.socket | None = sock
        self.peer = peer
        self.since = since
        self.task: asyncio.Task[None] | None = None

    def end(self) -> None:
        if self.sock is not None:  # its task has not begun
            self.sock.close()
            self.sock = None
        if self.task is not None:
            self.task.cancel()


class TlsServer:
    """Accepts on a listening socket until `close`."""

    def __init__(
        self, sock: socket.socket, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext
    ) -> None:
        self._socket = sock
        self._factory = factory
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._shaking: dict[_Shaking, None] = {}  # the oldest first
        self._less = asyncio.Event()
        self._accepting = asyncio.create_task(self._accept(), name="accept")

    def __repr__(self) -> str:
        return f"<TlsServer, {len(self._shaking)} shaking hands>"

    def __len__(self) -> int:
        return len(self._shaking)

    def close(self) -> None:
        """Accept no more, and let go of who has not come in yet."""
        self._accepting.cancel()
        for one in tuple(self._shaking):
            one.end()
        self._socket.close()

    async def _accept(self) -> None:
        while True:
            if len(self._shaking) >= MOST:
                await self._room()
                continue
            try:
                sock, address = await self._loop.sock_accept(self._socket)
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            one = _Shaking(sock, str(address[0]), self._loop.time())
            self._thin_out(one.peer)
            self._shaking[one] = None
            one.task = asyncio.create_task(self._greet(one), name="handshake")

    async def _room(self) -> None:
        """All places are taken: the oldest goes when it has had its time; until then nobody is accepted."""
        oldest = next(iter(self._shaking))
        wait_s = oldest.since + HONEST_S - self._loop.time()
        if wait_s <= 0:
            self._let_go(oldest)
            return
        self._less.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._less.wait()

    def _thin_out(self, peer: str) -> None:
        """Of one address the oldest goes, if it has had its time."""
        of_peer = [one for one in self._shaking if one.peer == peer]
        if len(of_peer) >= OF_ONE and self._loop.time() - of_peer[0].since >= HONEST_S:
            self._let_go(of_peer[0])

    def _let_go(self, one: _Shaking) -> None:
        del self._shaking[one]
        one.end()

    async def _greet(self, one: _Shaking) -> None:
        """The protocol hears of it when the handshake is done; if it never is, nobody does."""
        sock, one.sock = one.sock, None
        assert sock is not None  # noqa: S101  whose task is cancelled before it begins, does not begin
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(
                self._factory,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=TIMEOUT_S,
                ssl_shutdown_timeout=GOODBYE_TIMEOUT_S,
            )
        except (
            OSError,
            EOFError,
        ):  # its own fault, or it has left: `ssl.SSLError` and timeouts are among them
            pass
        finally:
            self._shaking.pop(one, None)
            self._less.set()
