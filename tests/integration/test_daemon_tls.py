"""The daemon with TLS on its port: started, asked, given a new certificate, and a broken one."""

import http.client
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.tls import CertificateFiles
from tests.support import certs
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certs")


@pytest.fixture(scope="module")
def one(folder: Path) -> CertificateFiles:
    return certs.make(folder, "one")


@pytest.fixture(scope="module")
def two(folder: Path) -> CertificateFiles:
    return certs.make(folder, "two")


def put(daemon: DaemonUnderTest, files: CertificateFiles) -> None:
    """Where the daemon's configuration says that they are."""
    shutil.copy(files.cert, daemon.folder / "cert.pem")
    shutil.copy(files.key, daemon.folder / "key.pem")


def named(daemon: DaemonUnderTest) -> dict[str, str]:
    return {"cert_file": str(daemon.folder / "cert.pem"), "key_file": str(daemon.folder / "key.pem")}


@contextmanager
def speaking_tls(files: CertificateFiles) -> Iterator[DaemonUnderTest]:
    with DaemonUnderTest() as daemon:
        put(daemon, files)
        daemon.configure(tls=named(daemon))
        daemon.run()
        daemon.wait_ready()
        yield daemon


@contextmanager
def connected(daemon: DaemonUnderTest, *trusted: CertificateFiles) -> Iterator[http.client.HTTPSConnection]:
    connection = http.client.HTTPSConnection(
        "localhost", daemon.port, timeout=DEADLINE_S, context=certs.trusting(*trusted)
    )
    try:
        yield connection
    finally:
        connection.close()


def health(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def shown(daemon: DaemonUnderTest, *trusted: CertificateFiles) -> str:
    sock = socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_S)
    with certs.trusting(*trusted).wrap_socket(sock, server_hostname="localhost") as secure:
        return certs.common_name(secure)


def test_chat_and_status_know_that_it_is_https(one: CertificateFiles) -> None:
    with speaking_tls(one) as daemon:
        said = daemon.cli("chat", "Hello")
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.strip()
        assert daemon.status()["url"] == f"https://127.0.0.1:{daemon.port}"
        assert f"https://127.0.0.1:{daemon.port}" in daemon.cli("status").stdout


def test_chat_does_not_talk_to_somebody_with_another_certificate(
    one: CertificateFiles, two: CertificateFiles
) -> None:
    with speaking_tls(one) as daemon:
        put(daemon, two)
        said = daemon.cli("chat", "Hello")
        assert said.returncode == 1
        assert "does not show the certificate of tls.cert_file" in said.stderr
        assert "llmsup reload" in said.stderr


@pytest.mark.parametrize("how", ["reload", "SIGHUP"])
def test_a_new_certificate_is_taken_up_and_no_connection_lost(
    one: CertificateFiles, two: CertificateFiles, how: str
) -> None:
    with speaking_tls(one) as daemon, connected(daemon, one) as old:
        assert health(old) == 200
        put(daemon, two)
        if how == "reload":
            assert "tls" in daemon.cli("reload").stdout
        else:
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: "configuration read again" in daemon.log(), "it is read again")
        assert shown(daemon, two) == "two"
        assert health(old) == 200


def test_a_broken_certificate_is_reported_and_the_old_one_stays(
    one: CertificateFiles, two: CertificateFiles
) -> None:
    with speaking_tls(one) as daemon:
        shutil.copy(two.key, daemon.folder / "key.pem")
        done = daemon.cli("reload")
        assert done.returncode == 6
        assert "is not the key of the certificate" in done.stderr
        assert "going on with the old one" in daemon.log()
        assert shown(daemon, one) == "one"
        put(daemon, one)
        assert daemon.cli("reload").returncode == 0


def test_other_files_are_taken_up_and_no_files_wait_for_the_next_start(
    one: CertificateFiles, two: CertificateFiles
) -> None:
    with speaking_tls(one) as daemon:
        daemon.configure(tls={"cert_file": str(two.cert), "key_file": str(two.key)})
        assert daemon.cli("reload").returncode == 0
        assert shown(daemon, two) == "two"
        daemon.configure()
        assert "tls.cert_file" in daemon.cli("reload").stdout
        assert shown(daemon, two) == "two"


def test_without_its_files_it_does_not_start(one: CertificateFiles) -> None:
    with DaemonUnderTest() as daemon:
        daemon.configure(tls=named(daemon))
        done = daemon.cli("start")
        assert done.returncode == 6
        assert f"tls.cert_file: no such file: {daemon.folder}/cert.pem" in done.stderr
        put(daemon, one)
        done = daemon.cli("start")
        assert done.returncode == 0
        assert f"https://127.0.0.1:{daemon.port}" in done.stdout
        assert daemon.cli("stop").returncode == 0


def test_plain_http_is_not_understood_and_nothing_is_logged_as_an_error(one: CertificateFiles) -> None:
    with speaking_tls(one) as daemon:
        with socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_S) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"HTTP" not in sock.recv(1000)
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(daemon)
        assert shown(daemon, one) == "one"
        assert "error" not in daemon.log().lower()
