"""Browsers that have shown an admin key once: a random token for each, in memory only. Pure.

A session has two secrets, neither of which is the key. The cookie tells the browser; as it goes to every port of the
host, whoever listens on another one may have it. The page's token is told to the page that has shown the key, which sends
it as a header of its own; no other origin can read it, and without it the cookie is good for nothing.

What is kept here is hashes, and which key a session stands for, so that it ends with its key.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from supervisor.keys.key import Presented

COOKIE = b"llmsup_session"
LIFE_S = 12 * 3600
MOST = 64
MOST_PAGES = 16  # of one browser: each tab shows the key once, and gets a token of its own
TOKEN_BYTES = 32


@dataclass(slots=True)
class _Session:
    shown: Presented
    until: float
    pages: list[bytes] = field(default_factory=list)

    def has(self, page: bytes) -> bool:
        """Compared in constant time, each of them."""
        wanted = _kept(page)
        return sum(hmac.compare_digest(one, wanted) for one in self.pages) > 0


@dataclass(frozen=True, slots=True)
class Opened:
    """What the browser is told: for its cookie, and for its page alone."""

    cookie: bytes
    page: bytes


class Sessions:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, _Session] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Sessions {len(self._open)}>"

    def open(self, shown: Presented, now: float, cookie: bytes = b"") -> Opened:
        """A new one, or one more page of the browser's own; the oldest goes when there are too many."""
        page = _token()
        session = self._alive(cookie, now)
        if session is None or session.shown != shown:
            self.close(cookie)
            cookie = _token()
            session = self._open[_kept(cookie)] = _Session(shown, now)
        session.until = now + LIFE_S
        session.pages = [*session.pages[1 - MOST_PAGES :], _kept(page)]
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return Opened(cookie, page)

    def find(self, cookie: bytes, page: bytes, now: float) -> Presented | None:
        """What was shown when it was opened; None: it is none, or over, or its page does not ask."""
        session = self._alive(cookie, now)
        return session.shown if session is not None and session.has(page) else None

    def close(self, cookie: bytes) -> None:
        self._open.pop(_kept(cookie), None)

    def _alive(self, cookie: bytes, now: float) -> _Session | None:
        session = self._open.get(_kept(cookie))
        if session is not None and now >= session.until:
            self.close(cookie)
            return None
        return session


def _token() -> bytes:
    return secrets.token_urlsafe(TOKEN_BYTES).encode()


def _kept(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def token_in(cookie: bytes | None) -> bytes:
    """The session's token in a Cookie field; empty: there is none."""
    for pair in (cookie or b"").split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name == COOKIE:
            return value
    return b""


def set_cookie(token: bytes, *, secure: bool) -> bytes:
    """A header line; an empty token takes the cookie away."""
    life = LIFE_S if token else 0
    return b"Set-Cookie: %b=%b; Path=/llmsup/; Max-Age=%d; HttpOnly; SameSite=Strict%b\r\n" % (
        COOKIE,
        token,
        life,
        b"; Secure" if secure else b"",
    )
