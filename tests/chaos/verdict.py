"""What an answer was worth, as the client that got it sees it. Pure.

Lost, and never right: ``torn`` (it looks finished and is not, or the other way round), ``broken`` (it stopped
without a word) and ``failed`` (an error nobody should get). ``refused``, ``quarantined`` and ``unreachable`` are right
while a fault is on for which they are the specified behaviour: a model that cannot start, one that crashes
again with the same request inside, a daemon that is not there. They are excused by the clock (`Excuses`), and lost at
any other time.
"""

import json
from dataclasses import dataclass

from tests.support.rawhttp import Response

LOST = frozenset({"failed", "torn", "broken", "refused", "quarantined", "unreachable"})


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str
    detail: str = ""


WHOLE, CUT, LEFT = Outcome("whole"), Outcome("cut"), Outcome("left")


def judge(reply: Response, *, stream: bool) -> Outcome:
    """``cut``: a stream that ended without ``[DONE]`` and without a last chunk, so nobody takes it for whole."""
    if reply.status != 200:
        return Outcome(_refusal(reply) or "failed", f"{reply.status}: {reply.body[:300]!r}")
    if not stream:
        if not reply.complete:
            return Outcome("broken", f"{len(reply.body)} bytes of an answer")
        return WHOLE if _is_json(reply.body) else Outcome("torn", repr(reply.body[-300:]))
    done = reply.body.endswith(b"data: [DONE]\n\n")
    if done == reply.complete:
        return WHOLE if done else CUT
    return Outcome("broken" if done else "torn", repr(reply.body[-300:]))


def _refusal(reply: Response) -> str:
    """Its kind, where it is one of ours in the contract's words; a 503 has a time to come back after."""
    try:
        error = json.loads(reply.body)["error"]
        source, code = error["source"], error["code"]
    except (ValueError, KeyError, TypeError):
        return ""
    if source == "llmsup" and (reply.status, code) in {(422, "request_quarantined"), (403, "client_banned")}:
        return "quarantined"
    if source == "llmsup" and reply.status == 503 and code and reply.header("retry-after") is not None:
        return "refused"
    return ""


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


@dataclass(slots=True)
class _Window:
    kinds: frozenset[str]
    opened: float
    closed: float = float("inf")


class Excuses:
    """Times (monotonic seconds) at which a kind of outcome is the specified one."""

    def __init__(self) -> None:
        self._windows: list[_Window] = []

    def open(self, kinds: frozenset[str], now: float) -> None:
        self._windows.append(_Window(kinds, now))

    def close(self, now: float) -> None:
        """The newest one."""
        self._windows[-1].closed = now

    def cover(self, kind: str, begun: float, ended: float) -> bool:
        """Whether a question that was open for that time may have ended so."""
        return any(
            kind in window.kinds and begun <= window.closed and ended >= window.opened
            for window in self._windows
        )
