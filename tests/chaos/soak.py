"""`python -m tests.chaos.soak`: kill the real llama-server again and again, and see that nothing grows.

Each cycle: kill -9, a question is asked at once and answered by the next generation. The size the daemon is compared
with is taken after the first 100 kills, not at the start: until then the record of deaths fills (it keeps 100), and
caches and pools get their size. The report has both. Exit code 1: a question failed, the daemon grew by more than
5 MB, by a descriptor or by threads, or it saw an end too late. How late is not judged where other programs have kept
the processors busy meanwhile; the report says so.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from supervisor.proc import binary, deaths
from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).resolve().parents[2]
WARM_CYCLES = deaths.KEPT
GROWTH_BYTES = 5_000_000
EXECUTOR_THREADS = 6  # of the loop's executor; they come on demand, and stay
NOTICED_P99_S = 0.050
BUSY = 1.5  # processes that want a processor, for each there is; the soak alone takes less than one
STEPS = 10  # how often the memory is looked at in between: does it level off?
QUIET_S = 6.0  # idle connections to the child are closed after 4 s


@dataclass(frozen=True, slots=True)
class Size:
    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Size":
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads())

    def grown(self, before: "Size") -> bool:
        return (
            self.rss_bytes - before.rss_bytes > GROWTH_BYTES
            or self.descriptors > before.descriptors
            or self.threads > before.threads + EXECUTOR_THREADS
        )


@dataclass(frozen=True, slots=True)
class Kill:
    """``at``: time of day, to compare with the daemon's log; ``recovered_s``: None when the question failed."""

    generation: int
    at: float
    recovered_s: float | None


@dataclass(frozen=True, slots=True)
class Soak:
    """``start``: at the first READY; ``before``: after the warm-up; ``steps``: bytes on the way from there."""

    start: Size
    before: Size
    after: Size
    steps: list[int]
    kills: list[Kill]
    noticed_s: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=1000)
    cycles = parser.parse_args().cycles
    soak = _soak(cycles)
    recovered = [kill.recovered_s for kill in soak.kills if kill.recovered_s is not None]
    failed = len(soak.kills) - len(recovered)
    load = os.getloadavg()[0]
    busy = load > BUSY * (os.cpu_count() or 1)
    report = {
        "warm_cycles": WARM_CYCLES,
        "cycles": cycles,
        "failed": failed,
        "noticed_s": _spread(soak.noticed_s),
        "recovered_s": _spread(recovered),
        "load_average": round(load, 2),
        "times_judged": not busy,
        "start": asdict(soak.start),
        "before": asdict(soak.before),
        "after": asdict(soak.after),
        "growth_bytes": soak.after.rss_bytes - soak.before.rss_bytes,
        "growth_from_start_bytes": soak.after.rss_bytes - soak.start.rss_bytes,
        "rss_bytes_on_the_way": soak.steps,
    }
    print(json.dumps(report, indent=2))
    late = not busy and _percentile(soak.noticed_s, 99) >= NOTICED_P99_S
    return 1 if failed or late or soak.after.grown(soak.before) else 0


def _soak(cycles: int) -> Soak:
    with DaemonUnderTest(binary=binary.locate("auto"), model_path=ROOT / "models" / "demo.gguf") as daemon:
        daemon.run()
        daemon.wait_ready()
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        start = Size.of(process)
        kills = [_cycle(daemon) for _ in range(WARM_CYCLES)]
        before = Size.of(process)
        steps = []
        for turn in range(cycles):
            kills.append(_cycle(daemon))
            if (turn + 1) % max(1, cycles // STEPS) == 0:
                steps.append(process.memory_info().rss)
            if sys.stderr.isatty():
                print(f"\r{turn + 1}/{cycles}", end="", file=sys.stderr, flush=True)
        time.sleep(QUIET_S)
        return Soak(start, before, Size.of(process), steps, kills, _noticed(daemon.log(), kills))


def _cycle(daemon: DaemonUnderTest) -> Kill:
    one = daemon.model()
    at, begun = time.time(), time.monotonic()
    os.kill(one["pid"], signal.SIGKILL)
    reply = daemon.chat(max_tokens=4)
    taken_s = time.monotonic() - begun
    daemon.wait_next(one["generation"])
    return Kill(one["generation"], at, taken_s if reply.status == 200 else None)


def _noticed(log: str, kills: list[Kill]) -> list[float]:
    """Seconds from each kill until the daemon had seen it, reaped the process and said why it ended.

    KeyError: of one kill it has said nothing.
    """
    said: dict[int, float] = {}
    for line in log.splitlines():
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == "ended":
            said[entry["generation"]] = datetime.fromisoformat(entry["timestamp"]).timestamp()
    return [said[kill.generation] - kill.at for kill in kills]


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "p50": _percentile(seconds, 50),
        "p99": _percentile(seconds, 99),
        "max": _percentile(seconds, 100),
    }


def _percentile(seconds: list[float], percent: int) -> float:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 4)


if __name__ == "__main__":
    sys.exit(main())
