"""The port's certificate: loaded before anything is started, and again on each reload.

Invariant: what is in force is a pair that was loaded whole. A new pair goes into a context of its own, which new
connections take over during their handshake (that is what the callback for server names is for: it is called
with or without a name); loading into the context in use could leave half of it behind. Running connections
keep what they have.
"""

import hashlib
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor.errors import ConfigError
from supervisor.settings.schema import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("tls")

ALPN = ["http/1.1"]
HOW_TO_MAKE_ONE = (
    "for a try: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out cert.pem -keyout key.pem"
)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where certificate and key are; both PEM."""

    cert: Path
    key: Path


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """None: no TLS."""
    cert, key = settings.tls.cert_file, settings.tls.key_file
    return CertificateFiles(cert, key) if cert is not None and key is not None else None


def tls_of(settings: Settings) -> "ServerTls | None":
    """What the port speaks as configured; raises ConfigError as `read_pair` does."""
    files = certificate_files(settings)
    return None if files is None else ServerTls(files)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, found to be sound."""

    files: CertificateFiles
    context: ssl.SSLContext
    digest: bytes


def read_pair(files: CertificateFiles) -> Pair:
    """Read and check a pair; blocks on the disk.

    Raises:
        ConfigError: a file is missing, unreadable or no PEM, or the key is another certificate's.
    """
    digest = _digest(files)
    return Pair(files, _context(files), digest)


class ServerTls:
    """``context`` is the listening socket's, once and for all; `take` changes whom it hands connections to."""

    def __init__(self, files: CertificateFiles) -> None:
        """Raises ConfigError as `read_pair` does."""
        pair = read_pair(files)
        self._current, self._digest = pair.context, pair.digest
        self.context = _context(files)
        self.context.sni_callback = self._hand_over
        warn_of_readers(files.key)

    def take(self, pair: Pair) -> bool:
        """Use it for connections from now on; whether it differs from the one before."""
        self._current = pair.context
        fresh, self._digest = pair.digest != self._digest, pair.digest
        warn_of_readers(pair.files.key)
        return fresh

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._current


def warn_of_readers(key: Path) -> None:
    """Who has the key can pass for this server."""
    try:
        mode = os.stat(key).st_mode
    except OSError:
        return  # it has just been loaded; whatever happened to it since
    if mode & stat.S_IROTH:
        log.warning(
            "every user can read the private key",
            key_file=str(key),
            hint=f"chmod 600 {key}",
            mode=f"{mode & 0o777:o}",
        )


def _digest(files: CertificateFiles) -> bytes:
    digest = hashlib.sha256()
    for key, path in (("tls.cert_file", files.cert), ("tls.key_file", files.key)):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            raise ConfigError(f"{key}: no such file: {path}", hint=HOW_TO_MAKE_ONE) from None
        except OSError as exc:
            raise ConfigError(
                f"{key}: {path} cannot be read: {exc.strerror}", hint="llmsup's user must be able to read it"
            ) from None
    return digest.digest()


def _context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(files.cert, files.key, password=_refuse_passphrase)
    except (ssl.SSLError, OSError) as exc:
        raise _explained(exc, files) from None
    return context


def _refuse_passphrase() -> str:
    """Called for an encrypted key; OpenSSL would ask at the terminal otherwise."""
    raise PassphraseError


class PassphraseError(OSError):
    """The key is encrypted, and there is nobody to ask."""


def _explained(exc: Exception, files: CertificateFiles) -> ConfigError:
    if isinstance(exc, PassphraseError):
        return ConfigError(
            f"tls.key_file: {files.key} is encrypted with a passphrase",
            hint="decrypt it: openssl pkey -in OLD -out NEW (and chmod 600 NEW)",
        )
    if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
        return ConfigError(
            f"tls.key_file: {files.key} is not the key of the certificate in {files.cert}",
            hint="the first certificate in cert_file must be the server's own",
        )
    if first_certificate(_text(files.cert)) is None:
        return ConfigError(f"tls.cert_file: {files.cert} holds no certificate (PEM)", hint=HOW_TO_MAKE_ONE)
    if "PRIVATE KEY-----" not in _text(files.key):
        return ConfigError(f"tls.key_file: {files.key} holds no private key (PEM)", hint=HOW_TO_MAKE_ONE)
    reason = exc.reason if isinstance(exc, ssl.SSLError) and exc.reason else str(exc)
    return ConfigError(
        f"tls.key_file: {files.key} (or tls.cert_file: {files.cert}) is refused by OpenSSL: {reason}",
        hint=HOW_TO_MAKE_ONE,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def first_certificate(text: str) -> str | None:
    """The server's own of a PEM file that may hold its issuers' too; None when there is no sound one."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, found, rest = text.partition(begin)
    body, closed, _ = rest.partition(end)
    if not (found and closed):
        return None
    pem = f"{begin}{body}{end}\n"
    try:
        ssl.create_default_context().load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        return None
    return pem
