"""The report of an attack: figures in, words and a verdict out. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.report import Footprint, Leaks, leaks, quantile

SLOWER = 2.0  # than without attackers, an honest client's median
PEAK_BYTES = 150 << 20
STATUS_S = 2.0
SPARE_BYTES = 32 << 20  # tables that clients fill are bounded, and reach their bounds here
SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``quiet`` and ``attacked``: seconds of honest answers, by client; ``strikes``: by attacker and outcome;
    ``wrong``: honest requests that failed, states the model must not have; ``doors``: identities shut out;
    ``restarts_s``: how long the model was away, each time; ``crashes``: ends of the child; ``left``: in-flight, queued.
    """

    seed: int
    seconds: float
    slower: float = SLOWER
    strikes: Mapping[str, Mapping[str, int]]
    quiet: Mapping[str, Sequence[float]]
    attacked: Mapping[str, Sequence[float]]
    failed: Sequence[str]
    wrong: Sequence[str]
    doors: int
    crashes: int
    restarts_s: Sequence[float]
    status_s: float
    peak_bytes: int
    before: Footprint
    after: Footprint
    left: int
    alive: bool

    @property
    def passed(self) -> bool:
        return not self.violations()

    def allowed_s(self, client: str) -> float:
        """The median that client may have: twice the quiet one, and a restart for each closed door."""
        restart_s = statistics.median(self.restarts_s) if self.restarts_s else 0.0
        return self.slower * _median(self.quiet[client]) + self.doors * restart_s

    def violations(self) -> list[str]:
        """What was promised and not kept; also an attack that was none."""
        leaked = left_over(self.before, self.after, self.left)
        found = [
            *(f"{name} never struck" for name, some in self.strikes.items() if not sum(some.values())),
            *(f"the client {name} was not asked for" for name in self.quiet if not self.quiet[name]),
            *(f"the client {name} got no answer" for name in self.quiet if not self.attacked.get(name)),
            *(
                f"the client {name} waits {_median(self.attacked[name]):.3f} s (median), allowed "
                f"{self.allowed_s(name):.3f} s"
                for name in self.quiet
                if _median(self.attacked.get(name, ())) > self.allowed_s(name)
            ),
            *(f"an honest request failed: {one}" for one in self.failed),
            *self.wrong,
        ]
        if not self.strikes:
            found.append("nobody attacked")
        if self.status_s > STATUS_S:
            found.append(f"status took {self.status_s:.1f} s")
        if self.peak_bytes > PEAK_BYTES:
            found.append(f"the daemon had {self.peak_bytes >> 20} MiB, allowed {PEAK_BYTES >> 20}")
        if leaked:
            found.append(f"not as before: {leaked}")
        if not self.alive:
            found.append("the model does not answer afterwards")
        return found

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed, "violations": self.violations()}

    def text(self) -> str:
        found = self.violations()
        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds:.0f} s, {len(self.strikes)} attackers",
                "",
                f"{'attacker':<34}{'strikes':>8}  outcomes",
                *(_row(name, some) for name, some in self.strikes.items()),
                "",
                f"{'honest client':<20}{'asked':>7}{'quiet p50':>11}{'attacked p50':>14}{'p99':>8}{'allowed':>9}  (s)",
                *(self._client(name) for name in self.quiet),
                "",
                (
                    f"the child: {self.crashes} crashes, away {len(self.restarts_s)} times, "
                    f"at most {max(self.restarts_s, default=0.0):.2f} s; doors closed: {self.doors}"
                ),
                f"status: at most {self.status_s:.2f} s",
                (
                    f"the daemon: {self.before.rss_bytes >> 20} -> {self.after.rss_bytes >> 20} MiB, at most "
                    f"{self.peak_bytes >> 20}; {self.before.descriptors} -> {self.after.descriptors} descriptors; "
                    f"{self.left} requests left"
                ),
                *(f"BROKEN: {one}" for one in found[:SHOWN]),
                *([f"BROKEN: {len(found) - SHOWN} more"] if len(found) > SHOWN else []),
                "",
                "held" if not found else f"FAILED; again with: make attack ATTACK='--seed {self.seed}'",
            ]
        )

    def _client(self, name: str) -> str:
        attacked = self.attacked.get(name, ())
        return (
            f"{name:<20}{len(attacked):>7}{_median(self.quiet[name]):>11.3f}{_median(attacked):>14.3f}"
            f"{quantile(attacked, 0.99):>8.3f}{self.allowed_s(name):>9.3f}"
        )


def left_over(before: Footprint, after: Footprint, requests: int) -> Leaks:
    """What is not as before the attack."""
    return leaks(before, after, requests=requests, spare_bytes=SPARE_BYTES)


def _row(name: str, some: Mapping[str, int]) -> str:
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(some.items()))
    return f"{name:<34}{sum(some.values()):>8}  {outcomes}"


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
