"""Certificates for tests, signed by themselves, made by the openssl command."""

import ssl
import subprocess
from pathlib import Path
from shutil import which

import pytest

from supervisor.tls import CertificateFiles

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def make(folder: Path, name: str) -> CertificateFiles:
    """``name.pem`` and ``name.key`` in `folder`; the test is skipped where there is no openssl command."""
    if which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    whose = ["-subj", f"/CN={name}", "-addext", NAMES, "-out", cert, "-keyout", key]
    subprocess.run(["openssl", "req", "-x509", *curve, *whose], check=True, capture_output=True, timeout=30)
    key.chmod(0o600)
    return CertificateFiles(cert, key)


def encrypted(files: CertificateFiles) -> Path:
    """The same key, with a passphrase."""
    to = files.key.with_suffix(".encrypted")
    command = ["openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:x", "-out", to]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return to


def trusting(*files: CertificateFiles) -> ssl.SSLContext:
    """A client that wants one of these certificates, for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for one in files:
        context.load_verify_locations(one.cert)
    return context


def common_name(sock: ssl.SSLSocket) -> str:
    """Of the certificate the server showed."""
    shown = sock.getpeercert()
    assert shown is not None
    return next(value for ((key, value),) in shown["subject"] if key == "commonName")
