"""Refusals, summed up: one line for each client and minute, not one for each refusal."""

from collections import Counter
from dataclasses import dataclass

from supervisor.ratelimit.pools import MINUTE_NS

MAX_CLIENTS = 1000  # named in one minute; a flood of forged names is one sum


@dataclass(frozen=True, slots=True)
class Violation:
    """``client`` is None for all that were too many to be named."""

    client: str | None
    limit: str
    count: int


class Violations:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str | None, str]] = Counter()
        self._clients: set[str] = set()
        self._until_ns: int | None = None  # None: nothing to tell

    def __repr__(self) -> str:
        return f"<Violations of {len(self._clients)} clients>"

    def add(self, client: str, limit: str, now_ns: int) -> None:
        if self._until_ns is None:
            self._until_ns = now_ns + MINUTE_NS
        if client in self._clients or len(self._clients) < MAX_CLIENTS:
            self._clients.add(client)
            self._counts[client, limit] += 1
        else:
            self._counts[None, limit] += 1

    def due(self, now_ns: int) -> list[Violation]:
        """Those of the minute that is over, most first; empty until then."""
        if self._until_ns is None or now_ns < self._until_ns:
            return []
        told = [Violation(client, limit, count) for (client, limit), count in self._counts.most_common()]
        self._counts.clear()
        self._clients.clear()
        self._until_ns = None
        return told
