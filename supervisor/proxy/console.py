"""The operator's API and dashboard under ``/llmsup`` on the port: who may, and the way to the control socket.

What is asked there is no request of a model: it has no slot, no place in the queue and no limit, is not in the
in-flight table, and is passed on, without the client's credentials, to the same server that the command talks to.

Three may ask: who shows an admin key with the request; a browser with a session (`sessions`), opened with such a key;
and, where ``open_on_loopback`` says so, whoever sits at this machine. A browser's word counts only when it comes from our
own page: another site's would come with the same cookie from the same machine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from supervisor.clock import Clock
from supervisor.errors import Forbidden, LlmsupError, NotFound, Unauthorized, UpstreamFailed
from supervisor.events import Endpoint
from supervisor.proxy import ingress
from supervisor.proxy.decision import WAIT, Answer, Decision
from supervisor.proxy.forwarded import address_of
from supervisor.proxy.headers import RequestFields
from supervisor.proxy.identity import Identity
from supervisor.proxy.inflight import Exchange, InFlight
from supervisor.proxy.sessions import Sessions, set_cookie, token_in
from supervisor.proxy.upstream import Pool, Upstream

ROOT = b"/llmsup"
PAGE = ROOT + b"/"
ASSETS = ROOT + b"/assets/"
LOGIN, LOGOUT = ROOT + b"/login", ROOT + b"/logout"
OWN_HEADER = b"x-llmsup-csrf:"  # no form can send it, and no page of another origin without our leave
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOKING = frozenset({b"GET", b"HEAD"})
_OWN_SITE = frozenset({b"same-origin", b"none"})  # "none": typed into the address bar
HOW_TO = (
    "llmsup keys create NAME --scope admin; then: Authorization: Bearer KEY, or open /llmsup/ in a browser"
)

Reject = Callable[[Exchange, LlmsupError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleRules:
    """``socket``: where the control API listens; ``dashboard``: whether browsers are served at all."""

    socket: str
    dashboard: bool = True
    open_on_loopback: bool = False


class _Door:
    """`upstream.Owner` of what goes to the control API: it is asked once, and waits for nobody."""

    def __init__(self, reject: Reject) -> None:
        self._reject = reject

    def lost(self, exchange: Exchange, error: LlmsupError) -> None:
        self._reject(exchange, error)

    def doubt(self) -> None:
        """There is no child to doubt."""

    def retries(self, exchange: Exchange, status: int) -> bool:
        return False


class _ControlPool(Pool):
    """Connections to the control API's UNIX socket."""

    def __init__(self, path: str, owner: _Door, clock: Clock) -> None:
        super().__init__(Endpoint(path, 0, ""), "control", owner, clock)
        self._preamble = b" HTTP/1.1\r\nHost: llmsup\r\n"

    async def dial(self, upstream: Upstream) -> None:
        path = self._endpoint.host
        await asyncio.get_running_loop().create_unix_connection(lambda: upstream, path)

    def crashed(self) -> LlmsupError:
        return UpstreamFailed("llmsup's control API ended in the middle of this answer")

    def not_connected(self, exchange: Exchange, error: BaseException | None) -> None:
        why = "llmsup is stopping" if error is None else f"the control API took no connection: {error}"
        self.owner.lost(exchange, UpstreamFailed(why))


class Console:
    def __init__(
        self,
        rules: ConsoleRules,
        *,
        identity: Identity,
        in_flight: InFlight,
        clock: Clock,
        reject: Reject,
    ) -> None:
        self._rules = rules
        self._identity = identity
        self._in_flight = in_flight
        self._clock = clock
        self._sessions = Sessions()
        self._pool = _ControlPool(rules.socket, _Door(reject), clock)

    def before(self, others: Callable[[Exchange], Decision]) -> Callable[[Exchange], Decision]:
        """Stage 1, for what is not asked of a model. Others pay for two looks at their target."""

        def decide(exchange: Exchange) -> Decision:
            target = exchange.target
            if ROOT not in target and b"%" not in target:
                return others(exchange)
            ingress.normalise(exchange)
            return self._decide(exchange) if self.has(exchange) else others(exchange)

        return decide

    def has(self, exchange: Exchange) -> bool:
        """Whether a normalised request is for the operator's side."""
        return exchange.path == ROOT or exchange.path.startswith(PAGE)

    def _decide(self, exchange: Exchange) -> Decision:
        if not exchange.target.startswith(ROOT):  # written in some other way, for which nobody has a reason
            raise NotFound("there is no such page")
        self._in_flight.leave_out(exchange)
        self._identity.name_refused(exchange)  # for the label only: who may is decided here
        path = exchange.path
        if exchange.fields.key is None:
            self._check_browsers(exchange)
            if path == ROOT:
                exchange.lines += b"Location: /llmsup/\r\n"
                return Answer(HTTPStatus.PERMANENT_REDIRECT, b"")
            if path == LOGOUT:
                return self._log_out(exchange)
            if not self._public(exchange) and not self._known(exchange):
                raise Unauthorized("this is for administrators: an admin key is required", hint=HOW_TO)
        else:
            if not self._identity.is_admin(exchange):
                raise Forbidden("this is for administrators: the key has not the scope admin", hint=HOW_TO)
            if path == LOGIN:
                return self._log_in(exchange)
        self._pass_on(exchange)
        return WAIT

    # ---- who may

    def _check_browsers(self, exchange: Exchange) -> None:
        """Raises NotFound or Forbidden: without a key only our own pages may ask."""
        if not self._rules.dashboard:
            if exchange.path in {ROOT, PAGE} or exchange.path.startswith(ASSETS):
                raise NotFound("there is no dashboard here", hint="dashboard.enabled is false")
            raise Unauthorized("this is for administrators: an admin key is required", hint=HOW_TO)
        if not same_origin(exchange.fields, exchange.path in {ROOT, PAGE}):
            raise Forbidden("this is for llmsup's own pages only")
        if exchange.method not in _LOOKING and OWN_HEADER not in exchange.fields.passed.lower():
            raise Forbidden("this is for llmsup's own pages only", hint="the header x-llmsup-csrf is missing")

    def _public(self, exchange: Exchange) -> bool:
        """The page itself, which says nothing and asks for a key."""
        return exchange.method in _LOOKING and (exchange.path == PAGE or exchange.path.startswith(ASSETS))

    def _known(self, exchange: Exchange) -> bool:
        if self._rules.open_on_loopback and sits_here(exchange.peer, exchange.fields):
            return True
        shown = self._sessions.find(token_in(exchange.fields.cookie), self._clock.now())
        return shown is not None and self._identity.is_admin_key(shown)

    def _log_in(self, exchange: Exchange) -> Decision:
        if not self._rules.dashboard or exchange.method != b"POST":
            raise NotFound("there is no such page")
        shown = exchange.fields.key
        assert shown is not None  # noqa: S101  its caller has looked
        token = self._sessions.open(shown, self._clock.now())
        exchange.lines += set_cookie(token, secure=_secure(exchange.fields))
        return Answer(HTTPStatus.NO_CONTENT, b"")

    def _log_out(self, exchange: Exchange) -> Decision:
        if exchange.method != b"POST":
            raise NotFound("there is no such page")
        self._sessions.close(token_in(exchange.fields.cookie))
        exchange.lines += set_cookie(b"", secure=_secure(exchange.fields))
        return Answer(HTTPStatus.NO_CONTENT, b"")

    # ---- the way there

    def _pass_on(self, exchange: Exchange) -> None:
        exchange.outgoing_target = exchange.target[len(ROOT) :]
        exchange.outgoing = b""  # nothing there takes a body
        self._pool.send(exchange)

    def sweep(self, now: float) -> None:
        self._pool.sweep(now, _patient)

    def close(self) -> None:
        self._pool.close()


def _patient(upstream: Upstream, silent_s: float) -> None:
    """A stream of events may say nothing for a while."""


def same_origin(fields: RequestFields, page: bool) -> bool:
    """Whether a browser says that one of our pages asks, or none at all; what is no browser says nothing.

    ``page``: the request is for the page itself, to which links of other sites may lead.
    """
    if fields.origin is not None and not (fields.host and _names(fields.origin, fields.host)):
        return False
    return page or fields.site is None or fields.site in _OWN_SITE


def _names(origin: bytes, host: bytes) -> bool:
    """Whether that origin is at this host and port."""
    scheme, mark, place = origin.partition(b"://")
    return bool(mark) and scheme in {b"http", b"https"} and place == host


def sits_here(peer: str, fields: RequestFields) -> bool:
    """Whether it comes from this machine, straight, and under a name of its own (another one may be anybody's, in
    whose DNS it means this machine today).
    """
    address = address_of(peer)
    if address is None or not address.is_loopback or fields.proxied:
        return False
    try:
        return urlsplit(f"//{_host(fields)}").hostname in LOOPBACK_NAMES
    except ValueError:
        return False


def _host(fields: RequestFields) -> str:
    return (fields.host or b"").decode("latin-1")


def _secure(fields: RequestFields) -> bool:
    """Whether the page came over TLS: browsers say so with every POST."""
    return (fields.origin or b"").startswith(b"https:")
