"""Where clients connect: the fixed port, and a UNIX socket beside it where one is configured. Both are bound first of
all, so that a second daemon or a stranger's server is noticed at once.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import structlog

from supervisor import unixsocket
from supervisor.clock import Clock
from supervisor.errors import ConfigError, Conflict, LlmsupError, PermissionDenied
from supervisor.handshakes import TlsServer

log: structlog.stdlib.BoundLogger = structlog.get_logger("listen")

BACKLOG = 1024
FIRST_HANDED = 3  # SD_LISTEN_FDS_START
UNIT_HINT = "the socket unit needs ListenStream= and Accept=no"
# This user and their group, as other daemons' sockets have it. Where the folder has the setgid bit its group counts.
UNIX_MODE = 0o660
UNIX_CHECK_S = 5.0


class Listener:
    """A bound socket. Nobody is accepted before `open`, but nobody is refused either: the backlog holds them."""

    def __init__(self, host: str, port: int, handed: socket.socket | None = None) -> None:
        """``handed``: a listening socket to use instead of a new one."""
        self._host = host
        self._socket = handed if handed is not None else _bound(host, port)
        self._socket.setblocking(False)
        self._port: int = self._socket.getsockname()[1]  # 0 has become a free one

    def __str__(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def open(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> asyncio.Server | TlsServer:
        """Accept from now on; with ``tls``, `factory` hears of a connection when its handshake is done."""
        if tls is None:
            return await loop.create_server(factory, sock=self._socket, backlog=BACKLOG)
        return TlsServer(self._socket, factory, tls)

    def close(self) -> None:
        self._socket.close()


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise _explained(exc, host, port) from exc
    return sock


class UnixListener:
    """The UNIX socket for clients. With no path there is none, and nothing here does anything."""

    def __init__(self, path: Path | None) -> None:
        """Raises:
        ConfigError: its folder does not exist.
        Conflict: somebody listens there, or something else is in the way.
        PermissionDenied: it cannot be made there.
        """
        self.path = path
        self._factory: Callable[[], asyncio.Protocol] | None = None  # while open
        self._server: asyncio.Server | None = None
        self._trouble = ""  # already said
        self._socket = None if path is None else _unix_bound(path)
        self._inode = None if path is None else unixsocket.inode(path)

    @property
    def address(self) -> str | None:
        """As `status` has it."""
        return None if self.path is None else str(self.path)

    async def open(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Accept from now on."""
        self._factory = factory
        if self._socket is not None:
            self._server = await _serving(self._socket, factory)

    async def keep(self, clock: Clock) -> None:
        """For ever: put it back when it was deleted. Who is connected stays so."""
        while self.path is not None:
            await clock.sleep(UNIX_CHECK_S)
            try:
                if self._factory is not None and not self._in_place(self.path):
                    await self._put_back(self.path, self._factory)
                self._trouble = ""
            except (OSError, LlmsupError) as exc:
                if str(exc) != self._trouble:
                    log.error("UNIX socket is gone and cannot be made", error=str(exc))
                self._trouble = str(exc)

    async def _put_back(self, path: Path, factory: Callable[[], asyncio.Protocol]) -> None:
        old_server, old_socket = self._server, self._socket
        self._socket = _unix_bound(path)
        self._inode = unixsocket.inode(path)
        self._server = None
        _close(old_server, old_socket)
        self._server = await _serving(self._socket, factory)
        if self._factory is None:  # closed meanwhile
            self._server.close()
        log.warning("UNIX socket was gone; made again", path=str(path))

    def _in_place(self, path: Path) -> bool:
        return self._inode is not None and unixsocket.inode(path) == self._inode

    def close(self) -> None:
        """No more clients; the file goes, unless it is somebody else's by now."""
        if self.path is not None and self._in_place(self.path):
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._factory = None
        _close(self._server, self._socket)
        self._server = self._socket = self._inode = None


def _unix_bound(path: Path) -> socket.socket:
    if not path.parent.is_dir():
        raise ConfigError(f"listen_unix: there is no folder {path.parent}", hint="make it first")
    unixsocket.check_free(path)
    sock = unixsocket.bind(path, mode=UNIX_MODE, backlog=BACKLOG)
    sock.setblocking(False)
    return sock


async def _serving(sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    return await asyncio.get_running_loop().create_unix_server(factory, sock=sock, backlog=BACKLOG)


def _close(server: asyncio.Server | None, sock: socket.socket | None) -> None:
    if server is not None:
        server.close()
    if sock is not None:
        sock.close()


# ---- socket activation (sd_listen_fds(3))


def handed_over(environ: MutableMapping[str, str], host: str, port: int) -> socket.socket | None:
    """The listening socket systemd opened for us, or None. The variables are removed: they are for us alone.

    Raises:
        ConfigError: it is not what ``listen`` says.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return None
    if count != "1":
        raise ConfigError(
            f"systemd handed over {count} sockets ({', '.join(names)}); one is wanted",
            hint="keep one ListenStream= in the socket unit",
        )
    sock = _inherited(FIRST_HANDED)
    if not _is_at(sock, host, port):
        where = sock.getsockname()
        sock.close()
        raise ConfigError(
            f"systemd listens on {_written(where)}, the configuration says listen: {_written((host, port))}",
            hint="make ListenStream= in the socket unit and listen: in the configuration the same",
        )
    return sock


def _inherited(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        )
    except OSError as exc:
        raise ConfigError(f"systemd handed over no socket: {exc.strerror}", hint=UNIT_HINT) from exc
    if not listening or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        sock.close()
        raise ConfigError("systemd handed over a socket that does not listen on TCP", hint=UNIT_HINT)
    return sock


def _is_at(sock: socket.socket, host: str, port: int) -> bool:
    at_host, at_port = sock.getsockname()[:2]
    if port not in {0, at_port}:
        return False
    try:
        wanted = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return at_host in wanted


def _written(address: tuple[Any, ...]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


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
