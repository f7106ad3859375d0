"""Which web pages may ask: our own, and those of `cors.allow_origins`; no other page gets anything done.

A page of any site may send a simple request (``text/plain``, ``no-cors``) to a server of this machine. Its browser keeps
the answer from it, but the work is done; CORS does not hinder that. Browsers say who asks (``Origin``, ``Sec-Fetch-Site``;
Fetch Metadata), and a page cannot change what they say:

1. `Sec-Fetch-Site` goes to trustworthy addresses only, `Origin` with everything but plain reading; a browser that says
   neither is known by its User-Agent, which matters under a foreign name only.
2. Same-origin is judged by names of ours (`server_names`): a rebound page's request is same-origin to its browser.
3. ``same-site`` is not our origin: other ports of localhost belong to other programs.
"""

import re
from collections.abc import Callable, Iterable

from supervisor.errors import MisdirectedRequest, OriginNotAllowed
from supervisor.proxy.cors import ANY
from supervisor.proxy.decision import Decision
from supervisor.proxy.headers import RequestFields
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.server_names import ServerNames, is_public, name_of

Decide = Callable[[Exchange], Decision]

PAGES = frozenset({b"/llmsup", b"/llmsup/"})  # to which links of other sites may lead: they say nothing
_LOOKING = frozenset({b"GET", b"HEAD"})
_OWN_SITE = frozenset({b"same-origin", b"none"})  # "none": typed into the address bar
_SCHEMES = frozenset({b"http", b"https"})  # whichever a proxy before us speaks
_BROWSER = re.compile(rb"^user-agent:[ \t]*mozilla/", re.IGNORECASE | re.MULTILINE)
_SHOWN = 100  # of a name that somebody has made up


class Origins:
    """``allowed``: origins of other pages that may ask, `ANY` for all."""

    def __init__(self, names: ServerNames, allowed: Iterable[str] = ()) -> None:
        self._names = names
        self._any = ANY in (listed := tuple(allowed))
        self._allowed = frozenset(origin.encode("ascii") for origin in listed)

    def before(self, others: Decide) -> Decide:
        """Stage 1, ahead of everything. Who is no browser and asks under a known name pays for three looks."""
        seen = self._names.seen

        def decide(exchange: Exchange) -> Decision:
            fields = exchange.fields
            if fields.origin is not None or fields.site is not None or fields.host not in seen:
                self.check(exchange)
            return others(exchange)

        return decide

    def check(self, exchange: Exchange) -> None:
        """Raises MisdirectedRequest: a name of none of ours; OriginNotAllowed: a page of none of ours."""
        fields = exchange.fields
        exchange.path = path = exchange.target.partition(b"?")[0]  # as the log has it, if this is its end
        self._check_name(exchange)
        if self.are_own(fields) or self._are_allowed(fields):
            return
        if path in PAGES and exchange.method in _LOOKING and fields.origin is None:
            return
        who = "another site" if fields.origin is None else fields.origin[:_SHOWN].decode("latin-1")
        raise OriginNotAllowed(
            f"a page of {who} may not ask here", hint="proxy.cors.allow_origins names those that may"
        )

    def _check_name(self, exchange: Exchange) -> None:
        host = exchange.fields.host
        if self._names.know(host):
            return
        name = name_of(host or b"")
        if not _by_browser(exchange.fields) and not (is_public(name) and exchange.connection.on_loopback):
            return
        raise MisdirectedRequest(
            f"this server is not called {name[:_SHOWN] or 'nothing'!r}",
            hint="name it in proxy.server_names, or ask localhost",
        )

    def are_own(self, fields: RequestFields) -> bool:
        """Whether a browser says that one of our pages asks; what is no browser says nothing, which is as good."""
        if fields.site is not None and fields.site not in _OWN_SITE:
            return False
        if fields.origin is None:
            return True
        scheme, mark, place = fields.origin.partition(b"://")
        if not mark or scheme not in _SCHEMES or not self._names.know(place):
            return False
        # A proxy may have put its own idea of our name in Host; what the browser compared, it says.
        return place == (fields.host or b"").lower() or fields.site == b"same-origin"

    def _are_allowed(self, fields: RequestFields) -> bool:
        return self._any or (fields.origin is not None and fields.origin in self._allowed)


def _by_browser(fields: RequestFields) -> bool:
    return fields.origin is not None or fields.site is not None or bool(_BROWSER.search(fields.passed))
