"""The fixed port: had at once, explained when it cannot be had."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import listen
from supervisor.errors import ConfigError, Conflict, PermissionDenied
from supervisor.listen import Listener, handed_over


def test_any_free_port_is_named_once_it_is_known() -> None:
    listener = Listener("127.0.0.1", 0)
    try:
        host, port = str(listener).split(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
    finally:
        listener.close()


def test_ipv6_is_written_in_brackets() -> None:
    try:
        listener = Listener("::1", 0)
    except Conflict:
        pytest.skip("this machine has no IPv6")
    assert str(listener).startswith("[::1]:")
    listener.close()


def test_a_client_before_open_waits_and_is_served() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        listener = Listener("127.0.0.1", 0)
        port = int(str(listener).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            server = await listener.open(loop, Greeter)
            client.setblocking(False)
            greeting = await loop.sock_recv(client, 16)
            server.close()
            await server.wait_closed()
        listener.close()
        return greeting

    assert asyncio.run(main()) == b"hello"


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hello")
        transport.close()


def test_a_taken_port_names_who_has_it() -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with pytest.raises(Conflict) as caught:
            Listener("127.0.0.1", port)
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in str(caught.value)
    assert "listen:" in caught.value.hint


def test_an_address_of_another_machine_is_a_conflict() -> None:
    with pytest.raises(Conflict, match=r"cannot listen on 192\.0\.2\.1:1"):
        Listener("192.0.2.1", 1)


def test_a_port_that_may_not_be_bound_says_which_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PermissionDenied, match=r"port 80 .* above 1023"):
        Listener("127.0.0.1", 80)


# ---- socket activation


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket where the first of systemd's would be."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        fd = os.dup(sock.fileno())
        monkeypatch.setattr(listen, "FIRST_HANDED", fd)
        yield sock
        with contextlib.suppress(OSError):
            os.close(fd)


def activation(**changes: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "llmsup.socket"} | changes


@pytest.mark.parametrize("port", ["the same", "any"])
def test_a_socket_handed_over_is_used(handed: socket.socket, port: str) -> None:
    environ = activation(PATH="/bin")
    number = handed.getsockname()[1]
    sock = handed_over(environ, "127.0.0.1", number if port == "the same" else 0)
    assert sock is not None
    assert environ == {"PATH": "/bin"}
    assert not sock.get_inheritable()
    listener = Listener("127.0.0.1", number, sock)
    assert str(listener) == f"127.0.0.1:{number}"
    listener.close()


@pytest.mark.parametrize("environ", [{}, activation(LISTEN_PID="1"), activation(LISTEN_FDS="x")])
def test_what_was_handed_to_somebody_else_is_left_alone(environ: dict[str, str]) -> None:
    environ = dict(environ)
    assert handed_over(environ, "127.0.0.1", 1) is None
    assert environ == {}


def test_another_address_than_configured_is_said(handed: socket.socket) -> None:
    number = handed.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"systemd listens on 127\.0\.0\.1:{number}, .* listen: \[::1\]:1"):
        handed_over(activation(), "::1", 1)


def test_more_than_one_socket_is_said() -> None:
    with pytest.raises(ConfigError, match=r"2 sockets \(a, b\)"):
        handed_over(activation(LISTEN_FDS="2", LISTEN_FDNAMES="a:b"), "127.0.0.1", 1)


def test_a_socket_that_does_not_listen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        monkeypatch.setattr(listen, "FIRST_HANDED", os.dup(sock.fileno()))
        with pytest.raises(ConfigError, match="does not listen on TCP"):
            handed_over(activation(), "127.0.0.1", 1)


def test_no_socket_at_all_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(listen, "FIRST_HANDED", file.fileno())
        with pytest.raises(ConfigError, match="no socket"):
            handed_over(activation(), "127.0.0.1", 1)
