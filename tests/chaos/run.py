"""`python -m tests.chaos.run`: random faults from FAULTS.md against the real binary, under load.

Seeded (the same seed, the same faults in the same order), bounded in time, on loopback only. The report counts
faults, questions by outcome, recoveries with p50 and p99, and what was left over. Exit code 1: something
was lost (a failed question, a torn stream) or leaked.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from supervisor.errors import LlmsupError
from supervisor.proc import binary
from tests.chaos.load import Clients
from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).resolve().parents[2]
PAUSE_S = (0.5, 2.5)  # between one recovery and the next fault
RECOVERY_LIMIT_S = 60.0
LEAK_BYTES = 16 << 20
CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGTERM"})  # held against the child, unlike a kill from outside
LEAK_DESCRIPTORS = 4


class Faults:
    """What is done to the daemon; each returns whether a new generation must follow."""

    def __init__(self, daemon: DaemonUnderTest) -> None:
        self._daemon = daemon
        self.known: dict[str, Callable[[], bool]] = {
            "SIGKILL": lambda: self._signal(signal.SIGKILL),
            "SIGSEGV": lambda: self._signal(signal.SIGSEGV),
            "SIGABRT": lambda: self._signal(signal.SIGABRT),
            "SIGTERM": lambda: self._signal(signal.SIGTERM),
            "restart": self._restart,
            "log folder removed": self._remove_logs,
            "control socket removed": self._remove_socket,
            "daemon stopped for 1 s": self._freeze,
            "SIGHUP": self._hangup,
        }

    def _signal(self, number: signal.Signals) -> bool:
        self._daemon.kill_child(number)
        return True

    def _restart(self) -> bool:
        done = self._daemon.cli("restart")
        assert done.returncode == 0, done.stderr
        return False

    def _remove_logs(self) -> bool:
        shutil.rmtree(self._daemon.state_dir / "logs", ignore_errors=True)
        return False

    def _remove_socket(self) -> bool:
        self._daemon.run_dir.socket_path.unlink(missing_ok=True)
        return False

    def _freeze(self) -> bool:
        process = self._process()
        process.suspend()
        time.sleep(1.0)
        process.resume()
        return False

    def _hangup(self) -> bool:
        self._process().send_signal(signal.SIGHUP)
        return False

    def _process(self) -> psutil.Process:
        assert self._daemon.process is not None
        return psutil.Process(self._daemon.process.pid)


def main() -> int:
    options = _options()
    with DaemonUnderTest(
        binary=binary.locate("auto"), model_path=ROOT / "models" / "demo.gguf", retry={"max_retries": 20}
    ) as daemon:
        daemon.run()
        daemon.wait_ready()
        report = _run(daemon, options)
    print(json.dumps(report, indent=2))
    lost = report["questions"].get("failed", 0) + report["questions"].get("torn", 0)
    return 1 if lost or report["leaked"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6)
    return parser.parse_args()


def _run(daemon: DaemonUnderTest, options: argparse.Namespace) -> dict[str, object]:
    dice, faults, done = random.Random(options.seed), Faults(daemon), Counter[str]()
    clients = Clients(daemon.port, options.clients, options.seed)
    clients.start()
    time.sleep(3.0)  # everything that is made on first use has been made
    before = _footprint(daemon)
    recoveries_s: list[float] = []
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        time.sleep(dice.uniform(*PAUSE_S))
        name = dice.choice(sorted(faults.known))
        generation = _generation(daemon)
        begun = time.monotonic()
        if faults.known[name]():
            _await_next(daemon, generation)
            recoveries_s.append(time.monotonic() - begun)
            if name in CRASHES:  # five in a row are a crash loop, by design: be the operator who steps in
                faults.known["restart"]()
        done[name] += 1
        _progress(done, clients)
    clients.stop()
    time.sleep(6.0)  # idle connections to the child are closed after 4 s
    _generation(daemon)  # the control socket is back
    return _report(options, done, clients, recoveries_s, before, _footprint(daemon), daemon)


def _progress(done: Counter[str], clients: Clients) -> None:
    if sys.stderr.isatty():
        counts = dict(clients.outcomes.counts)
        print(f"\r\033[K{sum(done.values())} faults, {counts}", end="", file=sys.stderr, flush=True)


def _generation(daemon: DaemonUnderTest) -> int:
    """Waits where the control socket has just been removed: it comes back within ten seconds."""
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        with contextlib.suppress(LlmsupError):
            model = daemon.model()
            if model["state"] == "READY":
                return int(model["generation"])
        assert time.monotonic() < deadline, "not READY in time"
        time.sleep(0.005)


def _await_next(daemon: DaemonUnderTest, generation: int) -> None:
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while _generation(daemon) <= generation:
        assert time.monotonic() < deadline, "no new generation in time"
        time.sleep(0.002)


def _footprint(daemon: DaemonUnderTest) -> dict[str, int]:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    return {
        "rss": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(daemon.children_alive()),
    }


def _report(
    options: argparse.Namespace,
    done: Counter[str],
    clients: Clients,
    recoveries_s: list[float],
    before: dict[str, int],
    after: dict[str, int],
    daemon: DaemonUnderTest,
) -> dict[str, object]:
    leaked = []
    if after["children"] != 1:
        leaked.append(f"{after['children']} llama-servers")
    if after["descriptors"] > before["descriptors"] + LEAK_DESCRIPTORS:
        leaked.append(f"descriptors {before['descriptors']} -> {after['descriptors']}")
    if after["rss"] > before["rss"] + LEAK_BYTES:
        leaked.append(f"memory {before['rss'] >> 20} -> {after['rss'] >> 20} MiB")
    requests = daemon.status()["requests"]
    if requests["in_flight"] or requests["queued"]:
        leaked.append(f"requests {requests}")
    ordered = sorted(recoveries_s) or [0.0]
    return {
        "seed": options.seed,
        "seconds": options.seconds,
        "faults": dict(done),
        "questions": dict(clients.outcomes.counts),
        "failures": clients.outcomes.failures,
        "slowest_answer_s": round(max(clients.outcomes.waits_s, default=0.0), 3),
        "recoveries": len(recoveries_s),
        "recovery_p50_s": round(statistics.median(ordered), 3),
        "recovery_p99_s": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "before": before,
        "after": after,
        "leaked": leaked,
    }


if __name__ == "__main__":
    sys.exit(main())
