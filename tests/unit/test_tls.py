"""`tls`: what is wrong with a pair is said with its file; what is in force is always whole."""

import re
import ssl
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.tls import CertificateFiles, ServerTls, first_certificate, read_pair
from tests.support import certs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certs")


@pytest.fixture(scope="module")
def one(folder: Path) -> CertificateFiles:
    return certs.make(folder, "one")


@pytest.fixture(scope="module")
def two(folder: Path) -> CertificateFiles:
    return certs.make(folder, "two")


def shown_by(
    tls: ServerTls, wants: ssl.SSLContext, **client: str | None
) -> tuple[str, str | None, str | None]:
    """Name on the certificate, protocol and TLS version of a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = tls.context.wrap_bio(to_server, to_client, server_side=True)
    theirs = wants.wrap_bio(to_client, to_server, **{"server_hostname": "localhost"} | client)
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    subject = theirs.getpeercert()["subject"]
    return subject[0][0][1], theirs.selected_alpn_protocol(), theirs.version()


def test_a_client_gets_the_certificate_and_http11(one: CertificateFiles) -> None:
    wants = certs.trusting(one)
    wants.set_alpn_protocols(["h2", "http/1.1"])
    assert shown_by(ServerTls(one), wants) == ("one", "http/1.1", "TLSv1.3")


def test_what_is_older_than_tls_12_is_refused(one: CertificateFiles) -> None:
    assert ServerTls(one).context.minimum_version == ssl.TLSVersion.TLSv1_2
    wants = certs.trusting(one)
    wants.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shown_by(ServerTls(one), wants)[2] == "TLSv1.2"


@pytest.mark.parametrize("name", ["localhost", None])
def test_new_connections_get_the_new_pair_with_or_without_a_name(
    one: CertificateFiles, two: CertificateFiles, name: str | None
) -> None:
    wants = certs.trusting(one, two)
    wants.check_hostname = name is not None
    tls = ServerTls(one)
    assert shown_by(tls, wants, server_hostname=name)[0] == "one"
    assert tls.take(read_pair(two))
    assert shown_by(tls, wants, server_hostname=name)[0] == "two"
    assert not tls.take(read_pair(two)), "the same again is nothing new"


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("none.pem", "one.key", r"tls\.cert_file: no such file: .*none\.pem .*openssl req"),
        ("one.pem", "none.key", r"tls\.key_file: no such file: .*none\.key"),
        (".", "one.key", r"tls\.cert_file: .* cannot be read: Is a directory"),
        ("junk", "one.key", r"tls\.cert_file: .*junk holds no certificate"),
        ("one.key", "one.key", r"tls\.cert_file: .*one\.key holds no certificate"),
        ("one.pem", "one.pem", r"tls\.key_file: .*one\.pem holds no private key"),
        ("one.pem", "two.key", r"two\.key is not the key of the certificate in .*one\.pem"),
        ("one.pem", "one.encrypted", r"one\.encrypted is encrypted with a passphrase .*openssl pkey"),
        ("one.pem", "torn.key", r"torn\.key .*is refused by OpenSSL"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, one: CertificateFiles, two: CertificateFiles, cert: str, key: str, said: str
) -> None:
    (folder / "junk").write_bytes(b"\0junk\xff")
    torn = re.sub(r"\n(?!-)", "\nA", one.key.read_text())
    (folder / "torn.key").write_text(torn)
    certs.encrypted(one)
    with pytest.raises(ConfigError, match=said):
        read_pair(CertificateFiles(folder / cert, folder / key))


def test_a_file_llmsup_may_not_read_is_said(one: CertificateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied \(llmsup's user"):
        read_pair(one)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_every_user_can_read_is_worth_a_warning(
    one: CertificateFiles, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    one.key.chmod(mode)
    ServerTls(one)
    one.key.chmod(0o600)
    out = capsys.readouterr()
    assert ("every user can read the private key" in out.out + out.err) == warned


def test_of_a_chain_the_first_is_the_servers_own(one: CertificateFiles, two: CertificateFiles) -> None:
    chain = f"some words\n{one.cert.read_text()}{two.cert.read_text()}"
    own = first_certificate(chain)
    assert own is not None
    assert own.strip() == one.cert.read_text().strip()
    assert first_certificate("") is None
    assert first_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None
