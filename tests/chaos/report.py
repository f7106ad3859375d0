"""The report of a run: figures in, words and a verdict out. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LEAK_BYTES = 16 << 20  # caches and rings reach their size in the course of a run
LEAK_DESCRIPTORS = 4  # connections to the child that idle


@dataclass(frozen=True, slots=True)
class Footprint:
    """One daemon at one moment. ``children``: llama-servers alive, whoever started them."""

    rss_bytes: int
    descriptors: int
    threads: int
    children: int


@dataclass(frozen=True, slots=True)
class Leaks:
    """What was left over; all zero is right."""

    processes: int = 0
    descriptors: int = 0
    memory_bytes: int = 0
    requests: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())


def leaks(
    before: Footprint, after: Footprint, *, requests: int = 0, busy: int = 0, spare_bytes: int = LEAK_BYTES
) -> Leaks:
    """Between two moments of one daemon. ``requests`` it still had, with no client left; ``busy``: descriptors that
    clients may hold, where they are still there; ``spare_bytes``: what it may grow by.
    """
    more_descriptors = after.descriptors - before.descriptors
    more_bytes = after.rss_bytes - before.rss_bytes
    return Leaks(
        processes=max(0, after.children - 1),
        descriptors=more_descriptors if more_descriptors > LEAK_DESCRIPTORS + busy else 0,
        memory_bytes=more_bytes if more_bytes > spare_bytes else 0,
        requests=requests,
    )


def total(parts: Sequence[Leaks]) -> Leaks:
    return Leaks(
        processes=sum(part.processes for part in parts),
        descriptors=sum(part.descriptors for part in parts),
        memory_bytes=sum(part.memory_bytes for part in parts),
        requests=sum(part.requests for part in parts),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of them do not exceed; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def times(values: Sequence[float]) -> dict[str, float]:
    """Seconds."""
    return {
        "count": len(values),
        "p50_s": round(statistics.median(values), 3) if values else 0.0,
        "p99_s": round(quantile(values, 0.99), 3),
        "max_s": round(max(values, default=0.0), 3),
    }


@dataclass(slots=True, kw_only=True)
class Report:
    """``recoveries``: from the fault to the next READY, in seconds, by fault; ``unexpected``: what a fault should
    have led to and did not; ``missed``: faults that came too late to bite; ``skipped``: those this machine
    does not allow.
    """

    seed: int
    seconds: float
    clients: int
    faults: Mapping[str, int]
    rows: Sequence[int]
    skipped: Mapping[str, str]
    missed: Sequence[str]
    unexpected: Sequence[str]
    requests: Mapping[str, int]
    lost: int
    failures: Sequence[str]
    slowest_answer_s: float
    slowest_answer: str
    recoveries: Mapping[str, Sequence[float]]
    lives: Sequence[tuple[Footprint, Footprint]] = field(default_factory=list)
    leaked: Leaks = field(default_factory=Leaks)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.leaked or self.unexpected)

    def as_dict(self) -> dict[str, Any]:
        every = [seconds for some in self.recoveries.values() for seconds in some]
        return asdict(self) | {
            "passed": self.passed,
            "recoveries": {"all": times(every)}
            | {name: times(some) for name, some in sorted(self.recoveries.items())},
        }

    def text(self) -> str:
        every = [seconds for some in self.recoveries.values() for seconds in some]
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, {self.clients} clients, "
            f"{sum(self.faults.values())} faults of {len(self.faults)} kinds; rows of FAULTS.md: "
            + ", ".join(str(row) for row in self.rows),
            "",
            f"{'fault':<40}{'times':>6}{'recoveries':>12}{'p50 s':>9}{'p99 s':>9}",
            *(_row(name, self.faults[name], self.recoveries.get(name, ())) for name in sorted(self.faults)),
            _row("all", sum(self.faults.values()), every),
            "",
            "requests: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.requests.items())),
            f"slowest answer: {self.slowest_answer_s:.1f} s ({self.slowest_answer})",
            f"lost: {self.lost}",
            (
                f"leaked: {self.leaked.processes} processes, {self.leaked.descriptors} descriptors, "
                f"{self.leaked.memory_bytes >> 20} MiB, {self.leaked.requests} requests"
            ),
            *(f"daemon {n}: {_life(*life)}" for n, life in enumerate(self.lives, 1)),
            *(f"skipped: {name}: {why}" for name, why in self.skipped.items()),
            *(f"too late to bite: {name}" for name in self.missed),
            *(f"UNEXPECTED: {one}" for one in self.unexpected),
            *(f"LOST: {one}" for one in self.failures),
            "",
            (
                "After crashes that count against the child, the run steps in with a restart as an operator would: five"
                " unstable runs in a row are a crash loop by design."
            ),
            "passed" if self.passed else f"FAILED; again with: make chaos CHAOS='--seed {self.seed}'",
        ]
        return "\n".join(lines)


def _row(name: str, count: int, some: Sequence[float]) -> str:
    figures = times(some)
    ends = f"{figures['p50_s']:>9.3f}{figures['p99_s']:>9.3f}" if some else f"{'-':>9}{'-':>9}"
    return f"{name:<40}{count:>6}{len(some):>12}{ends}"


def _life(before: Footprint, after: Footprint) -> str:
    return (
        f"{before.rss_bytes / 2**20:.1f} -> {after.rss_bytes / 2**20:.1f} MiB, "
        f"{before.descriptors} -> {after.descriptors} descriptors, {before.threads} -> {after.threads} threads"
    )
