"""The measuring itself: one load generator run, rounds of them interleaved over the peers, and their medians."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import Peer
from benchmarks.processes import cpu_seconds, upstream_counts

WARM_S = 0.25
SETTLE_S = 0.1  # between two runs: closed connections are noticed, queues run empty
SETTLE_LIMIT_S = 15.0
QUIET = 0.2  # of a core: who uses less has no queue left
GRACE_S = 20.0  # what a load generator may take beyond its time before it is killed
CHUNKS_PER_S = 50

Values = dict[str, float]


# What is sent, as arguments of the load generator. Answers of `pass` go through as they come; those of `chat` llmsup
# asks for as a stream, to be able to stop it, and assembles; `short` is whole streams, `sse` endless ones.
TOKENS = 16
LOADS: dict[str, tuple[str, ...]] = {
    "pass": ("-m", "json", "-u", "/v1/embeddings"),
    "chat": ("-m", "json", "-u", "/v1/chat/completions", "-t", str(TOKENS)),
    "short": ("-m", "sse", "-u", "/v1/chat/completions", "-t", str(TOKENS), "-i", "0"),
    "sse": ("-m", "sse", "-u", "/v1/chat/completions", "-i", str(1_000_000 // CHUNKS_PER_S)),
}
ORDER = (
    "direct",
    "nginx",
    "haproxy",
    "litellm",
    "llama-swap",
    "no-limits",
)  # in the tables; llmsup comes last
REFERENCES = ("direct", "nginx", "llama-swap")  # whom the others are compared with


@dataclass(frozen=True, slots=True)
class Scenario:
    kind: str  # of LOADS
    connections: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.connections}"

    @property
    def endless(self) -> bool:
        """Measured by chunks; the others by requests."""
        return self.kind == "sse"


SCENARIOS = tuple(
    Scenario(kind, count)
    for kind, counts in (
        ("pass", (1, 16, 64, 256)),
        ("chat", (1, 16, 64, 256)),
        ("short", (1, 64)),
        ("sse", (1, 64, 256)),
    )
    for count in counts
)


class LoadError(Exception):
    """The load generator could not do its work."""


@dataclass(slots=True)
class Results:
    """Every single value, by scenario and peer, in the order of the rounds; None where a run failed."""

    values: dict[str, dict[str, list[Values | None]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, scenario: Scenario, peer: str, values: Values | None) -> None:
        self.values.setdefault(scenario.name, {}).setdefault(peer, []).append(values)

    def summary(self) -> dict[str, dict[str, dict[str, Values]]]:
        """Scenario, peer, measure: median, min and max over the rounds."""
        out: dict[str, dict[str, dict[str, Values]]] = {}
        for scenario, by_peer in self.values.items():
            # The first to run differs from scenario to scenario; the first to be read does not.
            ordered = sorted(by_peer, key=lambda peer: ORDER.index(peer) if peer in ORDER else len(ORDER))
            out[scenario] = {peer: self._summarised(by_peer[peer], by_peer) for peer in ordered}
        return out

    def _summarised(
        self, runs: list[Values | None], by_peer: dict[str, list[Values | None]]
    ) -> dict[str, Values]:
        columns: dict[str, list[float]] = {}
        for index, run in enumerate(runs):
            if run is None:
                continue
            others = {peer: by_peer[peer][index] for peer in REFERENCES if index < len(by_peer.get(peer, []))}
            for measure, value in (run | compared(run, others)).items():
                columns.setdefault(measure, []).append(value)
        return {
            measure: {"median": statistics.median(column), "min": min(column), "max": max(column)}
            for measure, column in columns.items()
        }


def compared(run: Values, others: dict[str, Values | None]) -> Values:
    """What `run` says beside the others of the same round: a slow moment of the machine then hits all of them."""
    out: Values = {}
    for peer, other in others.items():
        if other is None:
            continue
        if other.get("rps"):
            out[f"rps_vs_{peer}"] = run["rps"] / other["rps"]
        if run.get("cpu_us") and other.get("cpu_us"):
            out[f"cpu_vs_{peer}"] = run["cpu_us"] / other["cpu_us"]
        if peer == "direct":
            for measure in ("p50_us", "p99_us"):
                out[f"added_{measure}"] = run[measure] - other[measure]
    return out


def run_once(loadgen: Path, scenario: Scenario, peer: Peer, seconds: float) -> Values:
    """One run; CPU time is read around it, so it is divided by everything done, warm-up included.

    :raises LoadError: when the load generator fails or nothing came back.
    """
    before, cpu_before = upstream_counts(peer.upstream_port), cpu_seconds(peer.pids)
    raw = generate(loadgen, scenario.kind, peer.port, scenario.connections, seconds, WARM_S, "-k", peer.key)
    cpu_s = cpu_seconds(peer.pids) - cpu_before
    after = upstream_counts(peer.upstream_port)
    units, delays = (
        (raw["chunks_all"], raw["chunk_delay_us"]) if scenario.endless else (raw["done"], raw["latency_us"])
    )
    if not units or delays is None:
        raise LoadError(
            f"nothing came back ({raw['errors']} errors, {raw['not_200']} answers other than 200)"
        )
    rate = "chunks_per_s" if scenario.endless else "rps"
    posts = after["posts"] - before["posts"]
    values: Values = {
        rate: raw[rate],
        "p50_us": delays["p50"],
        "p99_us": delays["p99"],
        "bad": raw["errors"] + raw["not_200"],
        # Work that would be counted as one request and is more: asked twice, or spliced.
        "again": raw["retried"] + raw["continued"] + max(0, posts - raw["sent"]),
        "streamed": (after["streams"] - before["streams"]) / max(1, posts),
    }
    if raw["first_us"]:
        values |= {"first_p50_us": raw["first_us"]["p50"], "first_p99_us": raw["first_us"]["p99"]}
    if peer.pids:
        values["cpu_us"] = cpu_s / units * 1e6
    return values


def generate(
    loadgen: Path, kind: str, port: int, connections: int, seconds: float, warm_s: float, *more: str
) -> dict[str, Any]:
    """What the load generator tells of one run; `more`: further arguments, which win.

    :raises LoadError: when it fails.
    """
    command = [
        *(str(loadgen), *LOADS[kind], "-p", str(port), "-c", str(connections)),
        *("-d", str(seconds), "-w", str(warm_s), *more),
    ]
    limit_s = seconds + warm_s + GRACE_S
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError("the load generator did not end") from error
    if done.returncode:
        raise LoadError(done.stdout.strip() or done.stderr.strip() or f"left with {done.returncode}")
    raw: dict[str, Any] = json.loads(done.stdout)
    return raw


def settle(peer: Peer) -> None:
    """Until it has done what the load has left behind, or that would be charged to the next one."""
    end = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < end:
        before = cpu_seconds(peer.pids)
        time.sleep(SETTLE_S)
        if cpu_seconds(peer.pids) - before < QUIET * SETTLE_S:
            return


def rotated(peers: list[Peer], turn: int) -> list[Peer]:
    start = turn % len(peers)
    return peers[start:] + peers[:start]


def measure(
    loadgen: Path, peers: list[Peer], rounds: int, seconds: float, tell: Callable[[str], None]
) -> Iterator[Results]:
    """Run all rounds, yielding the growing results after each, so that an interrupted run still has some."""
    results = Results()
    for turn in range(rounds):
        for index, scenario in enumerate(SCENARIOS):
            able = [peer for peer in peers if peer.most >= scenario.connections]
            for peer in rotated(able, turn + index):
                tell(f"round {turn + 1}/{rounds}  {scenario.kind} c={scenario.connections}  {peer.name}")
                try:
                    values: Values | None = run_once(loadgen, scenario, peer, seconds)
                except LoadError as error:
                    values = None
                    results.failures.append(f"round {turn + 1}, {scenario.name}, {peer.name}: {error}")
                results.add(scenario, peer.name, values)
                settle(peer)
        yield results
