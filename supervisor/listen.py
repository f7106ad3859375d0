"""The fixed port: bound first of all, so that a second daemon or a stranger's server is noticed at once."""

import asyncio
import errno
import socket
from collections.abc import Callable

from supervisor.errors import Conflict, PermissionDenied

BACKLOG = 1024


class Listener:
    """A bound socket. Nobody is accepted before `open`, but nobody is refused either: the backlog holds them."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
            self._socket.setblocking(False)
            self._port: int = self._socket.getsockname()[1]  # 0 has become a free one
        except OSError as exc:
            self._socket.close()
            raise _explained(exc, host, port) from exc

    def __str__(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def open(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol]
    ) -> asyncio.Server:
        return await loop.create_server(factory, sock=self._socket, backlog=BACKLOG)

    def close(self) -> None:
        self._socket.close()


def _explained(exc: OSError, host: str, port: int) -> Conflict | PermissionDenied:
    if exc.errno == errno.EADDRINUSE:
        owner = _owner(port)
        return Conflict(
            f"port {port} on {host} is taken{f' by {owner}' if owner else ''}",
            hint="stop that program, or set another port with listen: in the configuration",
        )
    if exc.errno == errno.EACCES:
        return PermissionDenied(f"port {port} on {host} may not be bound", hint="choose a port above 1023")
    return Conflict(
        f"cannot listen on {host}:{port}: {exc.strerror}", hint="see listen: in the configuration"
    )


def _owner(port: int) -> str | None:
    """Pid and command of who listens there, as far as this user may know."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return None
                return f"pid {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    except psutil.Error:
        pass
    return None
