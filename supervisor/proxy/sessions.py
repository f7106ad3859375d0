"""Browsers that have shown an admin key once: a random token for each, in memory only. Pure.

The cookie never holds the key, and what is kept here is neither: the token's hash, and which key it stands for, so
that a session ends with its key.
"""

import hashlib
import secrets
from collections import OrderedDict

from supervisor.keys.key import Presented

COOKIE = b"llmsup_session"
LIFE_S = 12 * 3600
MOST = 64
TOKEN_BYTES = 32


class Sessions:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, tuple[Presented, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Sessions {len(self._open)}>"

    def open(self, shown: Presented, now: float) -> bytes:
        """A new one; its token. The oldest goes when there are too many."""
        token = secrets.token_urlsafe(TOKEN_BYTES).encode()
        self._open[_kept(token)] = (shown, now + LIFE_S)
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return token

    def find(self, token: bytes, now: float) -> Presented | None:
        """What was shown when it was opened; None: it is none, or over."""
        entry = self._open.get(_kept(token))
        if entry is None:
            return None
        shown, until = entry
        if now >= until:
            del self._open[_kept(token)]
            return None
        return shown

    def close(self, token: bytes) -> None:
        self._open.pop(_kept(token), None)


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
