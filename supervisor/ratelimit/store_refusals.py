"""Who was refused by the shared store, so that asking again at once costs it nothing. Pure.

What is kept is not the verdict but the account it was given for: TATs only grow, so that whoever is refused with these
is refused by Redis too, and how long the wait is can be said for each request by itself. They get smaller by refunds
and settlements only: our own make us forget, those of other daemons are found out within `MAX_AGE_NS`. A refusal for
requests that run at the same time is never repeated from here: any of them may have ended.
"""

from collections import OrderedDict

from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Refused, Standing, standings
from supervisor.ratelimit.store_script import Decided, refusal

MAX_AGE_NS = SECOND_NS
MAX_KEPT = 10_000  # about 10 MB; above, the oldest goes and is asked about again


class Refusals:
    """By client and pool. All times are ours."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Decided] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Refusals of {len(self._kept)} clients>"

    def keep(self, client: str, pool: str, decided: Decided) -> None:
        self._kept.pop((client, pool), None)
        self._kept[client, pool] = decided
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def forget(self, client: str, pool: str) -> None:
        self._kept.pop((client, pool), None)

    def find(self, client: str, pool: str, tokens: int, now_ns: int) -> Refused | None:
        """What Redis would say; None: it must be asked."""
        kept = self._kept.get((client, pool))
        if kept is None or now_ns - kept.now_ns > MAX_AGE_NS:
            return None
        found = refusal(kept.accounts, tokens, now_ns)
        return found if found is not None and found.limit != "concurrent" else None

    def standings(self, client: str, pool: str, now_ns: int) -> list[Standing]:
        """Of whoever was refused just now; nothing of others."""
        kept = self._kept.get((client, pool))
        return (
            [] if kept is None else [one for account in kept.accounts for one in standings(account, now_ns)]
        )
