"""1 What was asked? The target in one form, and whether it is a thing that may be asked here at all.

llama-server cuts a target at ``#`` and decodes %-escapes before it looks a path up, so what is compared
with the lists below is the decoded path: ``/%73lots`` is ``/slots``. Its further notion that ``%u0073`` is
an ``s`` too, and fragments, are refused: neither has a place in a request target (RFC 9112, 3.2).
"""

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from supervisor.errors import BadRequest, Forbidden
from supervisor.proxy.inflight import Exchange

# Routes that change the server, or reveal other clients' work (CONTRACT, "On the port"): for admin keys.
ADMIN_PREFIXES = (b"/slots", b"/metrics", b"/v1/stream", b"/tools", b"/cors-proxy", b"/models/", b"/llmsup")
ADMIN_POSTS = frozenset({b"/props", b"/lora-adapters", b"/models"})
_REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})
_CHANGES_NOTHING = frozenset({b"GET", b"HEAD", b"OPTIONS"})  # "safe" in RFC 9110, 9.2.1


def nobody(_: Exchange) -> bool:
    """Where there are no keys, nobody is an administrator."""
    return False


def checker(is_admin: Callable[[Exchange], bool] = nobody) -> Callable[[Exchange], None]:
    """Stage 1. ``is_admin``: asked on admin routes only."""

    def ask(exchange: Exchange) -> None:
        check(exchange, is_admin)

    return ask


def is_admin_route(method: bytes, path: bytes) -> bool:
    return path.startswith(ADMIN_PREFIXES) or (method not in _CHANGES_NOTHING and path in ADMIN_POSTS)


def check(exchange: Exchange, is_admin: Callable[[Exchange], bool] = nobody) -> None:
    """Set ``path``; make the target origin-form.

    Raises:
        BadRequest: as `normalise`.
        Forbidden: an admin route, without an admin key.
        Unauthorized: likewise, with a key that is none.
    """
    normalise(exchange)
    path = exchange.path
    if is_admin_route(exchange.method, path) and not is_admin(exchange):
        raise Forbidden(f"{path.decode('latin-1')} is for administrators only")


def normalise(exchange: Exchange) -> None:
    """Set ``path``; make the target origin-form. Raises BadRequest: a method or target that has no meaning here."""
    if exchange.method in _REFUSED_METHODS:
        raise BadRequest(f"{exchange.method.decode()} is not supported here")
    target = exchange.target
    if target[:1] != b"/":
        target = exchange.target = _origin_form(target)
    path = target.partition(b"?")[0]
    if b"#" in target:
        raise BadRequest("the request target must not have a fragment")
    if b"%" in path:
        if b"%u" in path:
            raise BadRequest("%u escapes are not supported here")
        path = unquote_to_bytes(path)
    if path.startswith(b"//"):
        path = b"/" + path.lstrip(b"/")
    exchange.path = path


def _origin_form(target: bytes) -> bytes:
    """``http://host/path`` is ``/path`` (RFC 9112, 3.2.2)."""
    if target == b"*":
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        raise BadRequest("the request target must be a path")
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"
