"""The fixed port: had at once, explained when it cannot be had."""

import asyncio
import errno
import os
import socket

import pytest

from supervisor.errors import Conflict, PermissionDenied
from supervisor.listen import Listener


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
