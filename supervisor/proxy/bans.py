"""Clients whose requests have brought llama-server down, and whose door is closed for it. Pure.

fail2ban's two times: two strikes within ten minutes, and the client is refused for an hour. A strike is a poison
request found out (`suspects`): a crash that only it can have brought about. Where it can be told only that it was
one of some, each of them gets its share of half a strike: too little for whoever was there by accident, enough for
who is there each time. By name, as identity resolved it: a key, a user, an address or its IPv6 prefix; who comes with a
key is not touched by what its address has done. Bounded: oldest out first. A restart of llmsup forgets, and
so does an operator's restart of a model.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

FIND_S = 600.0  # strikes older than this are forgotten
BAN_S = 3600.0
LIMIT = 2.0  # one may be an accident: a question that this build of llama-server does not survive
DOUBT = 0.5  # of a strike, shared by those of whom one did it
# Each costs a crash of llama-server, of which there is one in a second at most.
MAX_CLIENTS = 500  # some 2 KB each at worst: names are cut where they are made (`identity`)
MAX_STRIKES = 16  # of one client: twice as many as it takes for two who are always seen together
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Ban:
    """``left_s``: for how long yet."""

    client: str
    left_s: float


class Bans:
    """Times are monotonic seconds, given by the caller. ``until``: when each door opens again; to be read only."""

    def __init__(self) -> None:
        self._strikes: OrderedDict[str, list[tuple[float, float]]] = OrderedDict()  # when, how much
        self.until: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Bans {len(self.until)}, {len(self._strikes)} under suspicion>"

    def __len__(self) -> int:
        """How many are refused, or were until lately: 0 costs a request nothing."""
        return len(self.until)

    def strike(self, client: str, now: float, weight: float = 1.0) -> bool:
        """True: its door closes now."""
        strikes = [one for one in self._strikes.pop(client, ()) if now - one[0] < FIND_S]
        strikes = [*strikes, (now, weight)][-MAX_STRIKES:]
        if sum(part for _, part in strikes) < LIMIT - _ROUNDING:
            self._strikes[client] = strikes
            _bound(self._strikes)
            return False
        fresh = not self.left_s(client, now)
        self.until.pop(client, None)
        self.until[client] = now + BAN_S
        _bound(self.until)
        return fresh

    def blamed(self, client: str, now: float) -> bool:
        """Whether it has brought it down before, for certain."""
        return any(weight >= 1.0 and now - at < FIND_S for at, weight in self._strikes.get(client, ()))

    def left_s(self, client: str, now: float) -> float:
        """For how long it is refused yet; 0: it is not."""
        until = self.until.get(client)
        if until is None:
            return 0.0
        if until <= now:
            del self.until[client]
            return 0.0
        return until - now

    def clear(self) -> None:
        """An operator opens all doors."""
        self._strikes.clear()
        self.until.clear()

    def closed(self, now: float) -> list[Ban]:
        """Those that are refused, the oldest first."""
        return [Ban(client, left_s) for client in list(self.until) if (left_s := self.left_s(client, now))]


def _bound(table: OrderedDict[str, Any]) -> None:
    while len(table) > MAX_CLIENTS:
        table.popitem(last=False)
