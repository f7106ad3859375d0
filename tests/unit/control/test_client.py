"""The command's side of the control socket, against a socket that says what it is told to."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient, OutdatedDaemon
from supervisor.control.rundir import RunDir
from supervisor.errors import LlmsupError, NotRunning, TimedOut

BODY = b'{"a": 1}'
Serve = Callable[[Callable[[socket.socket], object]], tuple[ControlClient, list[bytes]]]


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One answer, by a function of the connection; the client, and what it will have asked."""
    threads: list[threading.Thread] = []
    listening: list[socket.socket] = []

    def begin(answer: Callable[[socket.socket], object]) -> tuple[ControlClient, list[bytes]]:
        run = RunDir(tmp_path_factory.mktemp("s"))
        run.create()
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(run.socket_path))
        door.listen()
        asked: list[bytes] = []

        def once() -> None:
            sock, _ = door.accept()
            with sock:
                asked.append(sock.recv(65536))
                try:
                    answer(sock)
                except OSError:  # it has had enough
                    return

        threads.append(threading.Thread(target=once))
        threads[-1].start()
        listening.append(door)
        return ControlClient(run, timeout_s=0.3), asked

    yield begin
    for thread in threads:
        thread.join()
    for door in listening:
        door.close()


def answer(body: bytes = BODY, *, status: int = 200, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %d OK\r\ndate: x\r\nContent-Length: %d\r\n\r\n%b" % (status, size, body)


def test_a_document_in_pieces_is_put_together(serve: Serve) -> None:
    def slowly(sock: socket.socket) -> None:
        for byte in answer():
            sock.sendall(bytes([byte]))

    client, asked = serve(slowly)
    assert client.get("/status?x=1") == {"a": 1}
    assert asked[0].startswith(b"GET /status?x=1 HTTP/1.1\r\nhost: ")
    assert b"connection: close\r\n" in asked[0]


def test_a_command_is_a_post(serve: Serve) -> None:
    client, asked = serve(lambda sock: sock.sendall(answer()))
    client.post("/stop")
    assert asked[0].startswith(b"POST /stop ")


def test_one_that_dribbles_for_ever_meets_the_deadline(serve: Serve) -> None:
    def dribble(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            time.sleep(0.05)  # the other side's clock is the kernel's
            sock.sendall(b" ")

    client, _ = serve(dribble)
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"0\.3 s"):
        client.get("/status")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    "said",
    [
        answer(length=100),
        answer(length=3),
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 999 OK\r\ncontent-length: 8\r\n\r\n" + BODY,
        b"\xff\xfe\r\n\r\n",
        answer(b"[]"),
        answer(b"nope"),
    ],
)
def test_what_is_not_a_whole_answer_is_refused(serve: Serve, said: bytes) -> None:
    client, _ = serve(lambda sock: sock.sendall(said))
    with pytest.raises(LlmsupError, match="makes no sense"):
        client.get("/status")


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (405, "method_not_allowed")])
def test_a_word_it_does_not_know_means_another_version(serve: Serve, status: int, code: str) -> None:
    body = b'{"error": {"message": "no", "code": "%b", "exit_code": 2}}' % code.encode()
    client, _ = serve(lambda sock: sock.sendall(answer(body, status=status)))
    with pytest.raises(OutdatedDaemon, match=r"does not know /events: .*restart it"):
        client.get("/events?n=1")


def test_a_model_it_does_not_know_is_its_own_word(serve: Serve) -> None:
    body = b'{"error": {"message": "no model", "code": "model_not_found", "exit_code": 1}}'
    client, _ = serve(lambda sock: sock.sendall(answer(body, status=404)))
    with pytest.raises(LlmsupError, match=r"^no model$") as caught:
        client.post("/restart?model=x")
    assert not isinstance(caught.value, OutdatedDaemon)
    assert caught.value.exit_code == 1


def test_nobody_there_is_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        ControlClient(RunDir(tmp_path)).get("/status")
