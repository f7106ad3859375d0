"""How long a gate waits for an answer that stands still. Slow is not broken.

While the child uses the processor, everything waits on. Whether it hangs is for its instance to find out (`proc.hang`);
if it does, it is replaced and what was inside is asked again. One answer is given up if the child has shown meanwhile that
it lives, so that only this one does not come, or if the child hangs and may not be killed for it any more.

A client that does not read its answer holds a slot for it; while others wait for one, it holds it for so long only.
"""

from collections.abc import Iterable

from supervisor.errors import UpstreamTimeout
from supervisor.events import InstanceView
from supervisor.proc.hang import Standing, longest_trial_s
from supervisor.proxy.inflight import Exchange
from supervisor.proxy.stillness import Stillness
from supervisor.proxy.upstream import Pool, Upstream

UNREAD_S = (
    3.0  # in all, of one answer; what kernels take in for a client (megabytes) is read as far as we can see
)


def hang_up_on_those_who_do_not_read(active: Iterable[Exchange], now: float) -> None:
    """While others wait. In all, not at a time: who reads a little now and then holds the slot as well."""
    for exchange in [one for one in active if one.connection.unread_s(now) > UNREAD_S]:
        exchange.connection.hang_up()


class Patience:
    """With one model's child. Times are monotonic seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._stillness = Stillness()
        self._suspect_since: float | None = None
        self._cleared_at = 0.0  # when the child, suspected to hang, last showed that it does not
        self._pid: int | None = None
        self._now = 0.0

    def __repr__(self) -> str:
        return f"<Patience {self._limit_s:g} s, suspect since {self._suspect_since}>"

    def on_view(self, before: InstanceView, view: InstanceView, now: float) -> None:
        self._pid = view.pid
        if before.suspect is not None and view.suspect is None and view.checks > before.checks:
            self._cleared_at = now
        if before.suspect is None and view.suspect is not None:
            self._suspect_since = now
        elif view.suspect is None:
            self._suspect_since = None

    def standing(self, now: float) -> Standing:
        return self._stillness.standing(now)

    def sweep(self, pool: Pool, now: float) -> None:
        self._now = now
        self._stillness.note(pool.sweep(now, self._silence), now)

    def _silence(self, upstream: Upstream, quiet_s: float) -> None:
        now, limit_s = self._now, self._limit_s
        idle_s = self._stillness.idle_s(self._pid, now)
        alone = quiet_s >= limit_s and self._cleared_at > now - quiet_s
        suspect_s = now - self._suspect_since if self._suspect_since is not None else 0.0
        hopeless = min(quiet_s, suspect_s) >= longest_trial_s(limit_s)
        if (alone and idle_s >= limit_s) or hopeless:
            upstream.give_up(
                UpstreamTimeout(f"no byte from llama-server for {quiet_s:.0f} s, and no sign of work")
            )
