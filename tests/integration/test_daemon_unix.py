"""The UNIX socket for clients: beside the port, who asks there is who the kernel says, and it takes care of itself."""

import http.client
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import rawhttp
from tests.support.daemon import CHAT, DEADLINE_S, DaemonUnderTest, chat_body, running, until
from tests.support.otheruser import NOBODY, as_nobody, needs_root

OWN = f"uid:{os.geteuid()}"
CONFLICT, CONFIGURATION = 7, 6


def socket_of(daemon: DaemonUnderTest) -> Path:
    return daemon.folder / "clients.sock"


def beside(**sections: object) -> DaemonUnderTest:
    """One with a UNIX socket in its folder."""
    daemon = DaemonUnderTest()
    daemon.configure(listen_unix=str(socket_of(daemon)), **sections)
    return daemon


def started(**sections: object) -> DaemonUnderTest:
    daemon = beside(**sections)
    daemon.run()
    daemon.wait_ready()
    return daemon


def asked(
    path: Path, method: str = "GET", target: str = "/v1/models", body: object = None, **headers: str
) -> rawhttp.Response:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(path))
        sock.sendall(rawhttp.request(method, target, body, headers))  # type: ignore[arg-type]  # as `ask` does
        return rawhttp.Reader(sock).response()


def client(answer: rawhttp.Response) -> str | None:
    assert answer.status == 200, answer
    return answer.header("x-llmsup-client")


def test_both_addresses_serve_and_the_kernel_says_who_asks() -> None:
    with started() as daemon:
        path = socket_of(daemon)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert client(asked(path)) == OWN
        assert client(asked(path, "POST", CHAT, chat_body("Hello"))) == OWN
        assert client(daemon.chat()) == "ip:127.0.0.1"
        assert daemon.status()["listen_unix"] == str(path)
        assert f" and {path}" in daemon.cli("status").stdout
        daemon.stop()
        assert not path.exists()


def test_without_the_key_there_is_none() -> None:
    with running() as daemon:
        assert daemon.status()["listen_unix"] is None


def test_this_user_is_trusted_like_a_proxy_on_loopback() -> None:
    with started(proxy={"trusted_proxies": []}) as daemon:
        path = socket_of(daemon)
        assert client(asked(path, **{"X-User-ID": "ann"})) == "user:ann"
        assert client(asked(path, **{"X-Session-ID": "tab"})) == "session:tab"
        assert client(asked(path, **{"X-Forwarded-For": "6.6.6.6, 192.0.2.9"})) == "ip:192.0.2.9"


def test_a_key_comes_first_and_can_be_required() -> None:
    with started(proxy={"require_key": True}) as daemon:
        path = socket_of(daemon)
        assert asked(path).status == 401
        key = daemon.cli("keys", "create", "ci").stdout.strip()
        until(
            lambda: asked(path, Authorization=f"Bearer {key}").header("x-llmsup-client") == "key:ci",
            "the key is in force",
        )


@needs_root
@pytest.mark.parametrize("trusted", [[], [NOBODY]])
def test_another_user_is_that_user_unless_trusted_as_a_proxy(trusted: list[int]) -> None:
    with started(proxy={"trusted_uids": trusted}) as daemon:
        path = socket_of(daemon)
        daemon.folder.chmod(0o755)
        assert as_nobody("connect", path) == "PermissionError"
        path.chmod(0o666)
        plain = as_nobody("ask", path, "GET", "/v1/models").splitlines()[0]
        assert plain == f"200 uid:{NOBODY}"
        named = as_nobody("ask", path, "GET", "/v1/models", "X-User-ID: ann").splitlines()[0]
        assert named == ("200 user:ann" if trusted else f"200 uid:{NOBODY}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_gets_a_stream_through_it() -> None:
    with started() as daemon:
        body = '{"stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
        command = ["curl", "-sSN", "--unix-socket", socket_of(daemon), f"http://llmsup{CHAT}", "-d", body]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        assert done.stdout.rstrip().endswith("data: [DONE]")


def test_deleted_it_comes_back_and_who_was_connected_stays() -> None:
    with started() as daemon:
        path = socket_of(daemon)
        connection = http.client.HTTPConnection("llmsup", timeout=DEADLINE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        path.unlink()
        until(path.exists, "the socket is back")
        assert client(asked(path)) == OWN
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_something_in_the_way_ends_the_start_with_its_reason() -> None:
    with beside() as daemon:
        path = socket_of(daemon)
        path.write_text("somebody's")
        done = daemon.cli("run")
        assert done.returncode == CONFLICT
        assert f"{path} is in the way: it is not a socket" in done.stderr
        assert path.read_text() == "somebody's"
        assert not daemon.run_dir.running()


def test_a_folder_that_is_missing_is_said() -> None:
    with DaemonUnderTest() as daemon:
        daemon.configure(listen_unix=str(daemon.folder / "gone" / "s"))
        done = daemon.cli("run")
        assert done.returncode == CONFIGURATION
        assert f"there is no folder {daemon.folder / 'gone'}" in done.stderr


def test_a_second_daemon_gets_no_share_of_it() -> None:
    with started() as daemon, DaemonUnderTest() as other:
        other.configure(listen_unix=str(socket_of(daemon)))
        done = other.cli("run")
        assert done.returncode == CONFLICT
        assert "another program listens on" in done.stderr
        assert client(asked(socket_of(daemon))) == OWN


def test_what_a_killed_daemon_left_is_replaced_by_the_next() -> None:
    with started() as daemon:
        path = socket_of(daemon)
        os.kill(daemon.pid, signal.SIGKILL)
        assert daemon.process is not None
        daemon.process.wait(DEADLINE_S)
        assert path.exists()
        with pytest.raises(ConnectionRefusedError):
            asked(path)
        daemon.run()
        daemon.wait_ready()
        assert client(asked(path)) == OWN
