"""`python -m tests.chaos.soak`: kill the real llama-server again and again, and see that nothing grows.

Each cycle: kill -9, a question is asked at once and answered by the next generation. Exit code 1: a question failed,
or the daemon grew by more than 5 MB or by a descriptor.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import psutil

from supervisor.proc import binary
from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).resolve().parents[2]
WARM_CYCLES = 20  # until caches and pools have their size
GROWTH_BYTES = 5_000_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=1000)
    cycles = parser.parse_args().cycles
    with DaemonUnderTest(binary=binary.locate("auto"), model_path=ROOT / "models" / "demo.gguf") as daemon:
        daemon.run()
        daemon.wait_ready()
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        times_s = [_cycle(daemon) for _ in range(WARM_CYCLES)]
        before = _size(process)
        failed = 0
        for turn in range(cycles):
            taken = _cycle(daemon)
            failed += taken is None
            times_s.append(taken)
            if sys.stderr.isatty():
                print(f"\r{turn + 1}/{cycles}", end="", file=sys.stderr, flush=True)
        time.sleep(6.0)  # idle connections to the child are closed after 4 s
        after = _size(process)
    good = sorted(one for one in times_s if one is not None)
    report = {
        "cycles": cycles,
        "failed": failed,
        "recovery_p50_s": round(statistics.median(good), 4),
        "recovery_p99_s": round(good[int(len(good) * 0.99)], 4),
        "before": before,
        "after": after,
        "growth_bytes": after["rss"] - before["rss"],
    }
    print(json.dumps(report, indent=2))
    grown = report["growth_bytes"] > GROWTH_BYTES or after["descriptors"] > before["descriptors"]
    return 1 if failed or grown else 0


def _cycle(daemon: DaemonUnderTest) -> float | None:
    """Seconds from the kill to the answer; None when there was none."""
    generation = daemon.kill_child()
    begun = time.monotonic()
    reply = daemon.chat(max_tokens=4)
    taken = time.monotonic() - begun
    daemon.wait_next(generation)
    return taken if reply.status == 200 else None


def _size(process: psutil.Process) -> dict[str, int]:
    return {
        "rss": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
