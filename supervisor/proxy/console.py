"""The operator's API and dashboard under ``/llmsup`` on the port: who may, and the way to the control socket.

What is asked there is no request of a model: it has no slot, no place in the queue and no limit, is not in the
in-flight table, and is passed on, without the client's credentials, to the same server that the command talks to.

Three may ask: who shows an admin key with the request; a page with a session (`sessions`), opened with such a key;
and, where ``open_on_loopback`` says so, whoever sits at this machine. A browser's word counts only when it comes from our
own page: another site's would come from the same machine. Who may is asked again each second while an answer
goes on: a stream of events or of a log ends with its key, its session, or the page's signing out.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from supervisor.clock import Clock
from supervisor.errors import Forbidden, LlmsupError, NotFound, Unauthorized, UpstreamFailed
from supervisor.events import Endpoint
from supervisor.proxy import ingress
from supervisor.proxy.decision import WAIT, Answer, Decision
from supervisor.proxy.forwarded import address_of
from supervisor.proxy.headers import RequestFields
from supervisor.proxy.identity import Identity
from supervisor.proxy.inflight import Exchange, InFlight
from supervisor.proxy.origins import Origins
from supervisor.proxy.server_names import name_of
from supervisor.proxy.sessions import Sessions, set_cookie, token_in
from supervisor.proxy.static import StaticFiles
from supervisor.proxy.upstream import Pool, Upstream

ROOT = b"/llmsup"
PAGE = ROOT + b"/"
ASSETS = ROOT + b"/assets/"
LOGIN, LOGOUT = ROOT + b"/login", ROOT + b"/logout"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOKING = frozenset({b"GET", b"HEAD"})
HOW_TO = (
    "llmsup keys create NAME --scope admin; then: Authorization: Bearer KEY, or open /llmsup/ in a browser"
)

Reject = Callable[[Exchange, LlmsupError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleRules:
    """``socket``: where the control API listens; ``dashboard``: whether browsers are served at all, with ``page``."""

    socket: str
    dashboard: bool = True
    open_on_loopback: bool = False
    page: StaticFiles = field(default_factory=StaticFiles)


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

    def end_unless(self, may: Callable[[Exchange], bool]) -> None:
        """Answers that go on and on end when their asker may not any more."""
        for upstream in list(self._busy):
            exchange = upstream.exchange
            if exchange is not None and not may(exchange):
                upstream.give_up(
                    Unauthorized("the key or session that this was asked with is over", hint=HOW_TO)
                )

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
        origins: Origins,
        in_flight: InFlight,
        clock: Clock,
        reject: Reject,
    ) -> None:
        self._rules = rules
        self._identity = identity
        self._origins = origins
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
        if path in {ROOT, PAGE} or path.startswith(ASSETS):
            return self._page(exchange)
        if exchange.fields.key is None:
            self._check_browsers(exchange)
            if path == LOGOUT:
                return self._log_out(exchange)
            if not self._may(exchange):
                raise Unauthorized("this is for administrators: an admin key is required", hint=HOW_TO)
        else:
            if not self._identity.is_admin(exchange):
                raise Forbidden("this is for administrators: the key has not the scope admin", hint=HOW_TO)
            if path == LOGIN:
                return self._log_in(exchange)
        self._pass_on(exchange)
        return WAIT

    def _page(self, exchange: Exchange) -> Decision:
        """The page itself, which says nothing and asks for a key: whoever may ask here at all (`origins`) may see it."""
        if not self._rules.dashboard:
            raise NotFound("there is no dashboard here", hint="dashboard.enabled is false")
        if exchange.path == ROOT:
            exchange.lines += b"Location: /llmsup/\r\n"
            return Answer(HTTPStatus.PERMANENT_REDIRECT, b"")
        if exchange.method in _LOOKING:
            file = self._rules.page.answer(exchange, exchange.path[len(PAGE) :])
            if file is not None:
                return file
        raise NotFound("there is no such page")

    # ---- who may

    def _check_browsers(self, exchange: Exchange) -> None:
        """Raises Unauthorized or Forbidden: without a key only our own pages may ask."""
        if not self._rules.dashboard:
            raise Unauthorized("this is for administrators: an admin key is required", hint=HOW_TO)
        if not self._origins.are_own(exchange.fields):
            raise Forbidden("this is for llmsup's own pages only")
        if exchange.method not in _LOOKING and exchange.fields.csrf is None:
            raise Forbidden("this is for llmsup's own pages only", hint="the header x-llmsup-csrf is missing")

    def _may(self, exchange: Exchange) -> bool:
        """Whether who asks is an administrator, or is one still."""
        fields = exchange.fields
        shown = fields.key
        if shown is None:
            if self._rules.open_on_loopback and sits_here(exchange):
                return True
            shown = self._sessions.find(token_in(fields.cookie), fields.csrf or b"", self._clock.now())
        return shown is not None and self._identity.is_admin_key(shown)

    def _log_in(self, exchange: Exchange) -> Decision:
        if not self._rules.dashboard or exchange.method != b"POST":
            raise NotFound("there is no such page")
        shown = exchange.fields.key
        assert shown is not None  # noqa: S101  its caller has looked
        opened = self._sessions.open(shown, self._clock.now(), token_in(exchange.fields.cookie))
        exchange.lines += set_cookie(opened.cookie, secure=_secure(exchange.fields))
        return Answer(HTTPStatus.OK, json.dumps({"token": opened.page.decode("ascii")}).encode())

    def _log_out(self, exchange: Exchange) -> Decision:
        """Of all pages that share the cookie; whoever has that alone may not."""
        if exchange.method != b"POST":
            raise NotFound("there is no such page")
        fields = exchange.fields
        cookie = token_in(fields.cookie)
        if self._sessions.find(cookie, fields.csrf or b"", self._clock.now()) is not None:
            self._sessions.close(cookie)
            self._pool.end_unless(self._may)
        exchange.lines += set_cookie(b"", secure=_secure(fields))
        return Answer(HTTPStatus.NO_CONTENT, b"")

    # ---- the way there

    def _pass_on(self, exchange: Exchange) -> None:
        exchange.outgoing_target = exchange.target[len(ROOT) :]
        exchange.outgoing = b""  # nothing there takes a body
        self._pool.send(exchange)

    def sweep(self, now: float) -> None:
        self._pool.sweep(now, _patient)
        self._pool.end_unless(self._may)

    def close(self) -> None:
        self._pool.close()


def _patient(upstream: Upstream, silent_s: float) -> None:
    """A stream of events may say nothing for a while."""


def sits_here(exchange: Exchange) -> bool:
    """Whether it comes from this machine, straight, and under a name of its own (another one may be anybody's, in
    whose DNS it means this machine today). HTTP/1.0 is what proxies speak that say nothing else of themselves.
    """
    address = address_of(exchange.peer)
    if address is None or not address.is_loopback or exchange.fields.proxied or exchange.http10:
        return False
    return name_of(exchange.fields.host or b"") in LOOPBACK_NAMES


def _secure(fields: RequestFields) -> bool:
    """Whether the page came over TLS: browsers say so with every POST."""
    return (fields.origin or b"").startswith(b"https:")
