"""The dashboard's files: a fixed table of them, read once, under a policy that lets nothing else in.

Nothing is generated and nothing comes from elsewhere: what a model or a client says reaches the page as JSON only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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


async def _index(request: Request) -> Response:
    return _served(request, assets()[INDEX])


async def _asset(request: Request) -> Response:
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    return _served(request, asset)


def _served(request: Request, asset: Asset) -> Response:
    headers = {**HEADERS, "etag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.kind, headers=headers)


def routes() -> list[Route]:
    """Beside those of the API: they answer no JSON, and are no part of the OpenAPI document."""
    return [Route("/", _index), Route("/assets/{name}", _asset)]
