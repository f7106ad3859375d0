"""The fixed port and the UNIX socket: had at once, explained when they cannot be had."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from supervisor import listen
from supervisor.errors import ConfigError, Conflict, PermissionDenied
from supervisor.listen import UNIX_CHECK_S, Listener, UnixListener, handed_over
from tests.support.clock import FakeClock


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
    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio's
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


# ---- the UNIX socket

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative, so short: the folders of pytest are deep."""
    monkeypatch.chdir(tmp_path)
    return Path("llmsup.sock")


async def greeted(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    said = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return said


@contextlib.asynccontextmanager
async def kept(path: Path) -> AsyncIterator[tuple[UnixListener, FakeClock]]:
    """One that is open and looked after."""
    with contextlib.closing(UnixListener(path)) as listener:
        clock = FakeClock()
        await listener.open(Greeter)
        job = asyncio.create_task(listener.keep(clock))
        yield listener, clock
        assert not job.done()
        job.cancel()


def run(
    loop: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], Coroutine[None, None, None]]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())


def test_without_a_path_there_is_none() -> None:
    async def main() -> None:
        listener = UnixListener(None)
        await listener.open(Greeter)
        await listener.keep(FakeClock())
        listener.close()
        assert listener.address is None

    asyncio.run(main())


@LOOPS
def test_clients_wait_before_open_are_served_then_and_the_file_goes_at_the_end(
    loop: Callable[[], asyncio.AbstractEventLoop], path: Path
) -> None:
    async def main() -> None:
        with contextlib.closing(UnixListener(path)) as listener:
            assert listener.address == "llmsup.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            early = asyncio.create_task(greeted(path))
            await asyncio.sleep(0)
            await listener.open(Greeter)
            assert await early == await greeted(path) == b"hello"
        assert not path.exists()
        listener.close()

    run(loop, main)


@LOOPS
@pytest.mark.parametrize("lost", ["deleted", "replaced by a dead one"])
def test_a_lost_socket_is_put_back(
    loop: Callable[[], asyncio.AbstractEventLoop], path: Path, lost: str
) -> None:
    async def main() -> None:
        async with kept(path) as (_, clock):
            path.unlink()
            if lost != "deleted":
                with socket.socket(socket.AF_UNIX) as other:
                    other.bind(str(path))
            await clock.advance(UNIX_CHECK_S)
            assert await greeted(path) == b"hello"
        assert not path.exists()

    run(loop, main)


@LOOPS
def test_who_is_connected_stays_connected_when_it_is_put_back(
    loop: Callable[[], asyncio.AbstractEventLoop], path: Path
) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def main() -> None:
        with contextlib.closing(UnixListener(path)) as listener:
            await listener.open(Echo)
            clock = FakeClock()
            job = asyncio.create_task(listener.keep(clock))
            reader, writer = await asyncio.open_unix_connection(str(path))
            path.unlink()
            await clock.advance(UNIX_CHECK_S)
            assert path.exists()
            writer.write(b"still here")
            assert await asyncio.wait_for(reader.readexactly(10), 10) == b"still here"
            writer.close()
            job.cancel()

    run(loop, main)


def test_what_took_its_place_is_left_alone_and_said_once(path: Path) -> None:
    async def main() -> None:
        async with kept(path) as (_, clock):
            path.unlink()
            path.write_text("somebody's")
            with structlog.testing.capture_logs() as said:
                await clock.advance(4 * UNIX_CHECK_S)
            assert [line["log_level"] for line in said] == ["error"]
            assert "not a socket" in said[0]["error"]
            assert path.read_text() == "somebody's"
            path.unlink()
            await clock.advance(UNIX_CHECK_S)
            assert await greeted(path) == b"hello"
            path.unlink()
            path.write_text("somebody's")
        assert path.read_text() == "somebody's"

    asyncio.run(main())


def test_a_living_one_in_its_place_keeps_it(path: Path) -> None:
    async def main() -> None:
        async with kept(path) as (_, clock):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
                other.listen()
                inode = path.stat().st_ino
                await clock.advance(UNIX_CHECK_S)
                assert path.stat().st_ino == inode
                other.listen(0)
            await clock.advance(UNIX_CHECK_S)
            assert await greeted(path) == b"hello"

    asyncio.run(main())


def test_a_socket_that_is_in_place_is_not_made_again(path: Path) -> None:
    async def main() -> None:
        async with kept(path) as (_, clock):
            inode = path.stat().st_ino
            with structlog.testing.capture_logs() as said:
                await clock.advance(3 * UNIX_CHECK_S)
            assert path.stat().st_ino == inode
            assert not said

    asyncio.run(main())


def test_a_second_daemon_is_refused_and_harms_nothing(path: Path) -> None:
    async def main() -> None:
        with contextlib.closing(UnixListener(path)) as listener:
            with pytest.raises(Conflict, match="another program listens on"):
                UnixListener(path)
            await listener.open(Greeter)
            assert await greeted(path) == b"hello"

    asyncio.run(main())


def test_what_a_killed_daemon_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    UnixListener(path).close()


def test_something_else_in_the_way_is_said(path: Path) -> None:
    path.write_text("somebody's")
    with pytest.raises(Conflict, match="in the way"):
        UnixListener(path)
    assert path.read_text() == "somebody's"


def test_a_folder_that_is_not_there_is_the_configurations_fault(path: Path) -> None:
    with pytest.raises(ConfigError, match="listen_unix: there is no folder gone"):
        UnixListener(Path("gone") / path)


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
