"""The dashboard's files: a fixed table of them, read once, under a policy that lets nothing else in.

Nothing is generated and nothing comes from elsewhere: what a model or a client says reaches the page as JSON only. The
port serves them (`console`); the control socket has no use for them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from supervisor.proxy.static import StaticFile, StaticFiles

INDEX = "index.html"
_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",  # asked for again each time, answered with 304
}


@dataclass(frozen=True, slots=True)
class Asset:
    kind: str
    body: bytes
    etag: str


@cache
def assets() -> Mapping[str, Asset]:
    """Every file of the page by name; those without a kind known here (licences) are not served."""
    found = {}
    for file in resources.files("supervisor.control.dashboard").iterdir():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            body = file.read_bytes()
            found[file.name] = Asset(kind, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def static_files() -> StaticFiles:
    """The page as the port answers it, from memory; its first file is what the folder itself is asked for."""
    served = {
        (b"" if name == INDEX else b"assets/" + name.encode("ascii")): StaticFile(
            asset.kind.encode("ascii"), asset.body, asset.etag.encode("ascii")
        )
        for name, asset in assets().items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    return StaticFiles(served, lines.encode("ascii"))
