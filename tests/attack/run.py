"""`python -m tests.attack.run`: strangers attack the real binary while honest clients ask, and what came of it.

Seeded (the same seed, the same strikes of each attacker in the same order), bounded in number and time, on loopback
only. First the honest clients ask alone, for the latency to compare with. Exit code 1: an honest request failed or
waited too long, the model was FAILED or in a CRASHLOOP, the daemon grew, or something was not as before.
"""

import argparse
import contextlib
import json
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from supervisor.errors import LlmsupError
from supervisor.proc import binary
from tests.attack.arsenal import ATTACKERS
from tests.attack.attacker import addresses
from tests.attack.honest import Asked, Honest, people
from tests.attack.poison import UNKNOWN
from tests.attack.report import SLOWER, Report, left_over
from tests.attack.watch import Watch, footprint, peak_bytes
from tests.chaos.report import Footprint
from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).resolve().parents[2]
QUIET_SHARE, QUIET_MOST_S = 0.2, 15.0  # of the run's time, first
SETTLE_S = 20.0  # idle connections to the child are closed after 4 s, half requests of those who left at once
AFTERWARDS_S = 30.0  # for one short answer
PARTING_S = 60.0  # of the horde, beyond its time
DESCRIPTORS = 512  # few, so that attackers can take all places
# As an operator of a public box would have it: those without a key get less. Their shared bucket is wide, for many
# attackers here are to be refused one by one, and none of the honest ones with them.
ANONYMOUS = {"requests_per_minute": 120, "requests_per_hour": 7200, "concurrent": 2}
ANONYMOUS_SHARED = {"requests_per_minute": 100_000, "requests_per_hour": 1_000_000, "concurrent": 1000}
KEYED = {"requests_per_minute": 6000, "requests_per_hour": 100_000, "concurrent": 4}
POOLS = {"anonymous": ANONYMOUS | {"shared": ANONYMOUS_SHARED}, "user": KEYED, "session": ANONYMOUS}


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is put away all the same
    report = run(options.seed, options.seconds, options.only or list(ATTACKERS))
    print(report.text())
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    return 0 if report.passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of attack")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", action="append", choices=sorted(ATTACKERS), help="this attacker; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the report there too")
    return parser.parse_args()


def run(seed: int, seconds: float, names: list[str], *, slower: float = SLOWER) -> Report:
    """The whole of it, on a daemon of its own. ``slower``: than the quiet median, an honest client's may be."""
    with _daemon() as daemon:
        keys = [daemon.cli("keys", "create", name).stdout.strip() for name in ("bob", "carol")]
        honest, watch = Honest(daemon.port, people(*keys)), Watch(daemon, _deadly(names))
        honest.start()
        begun = time.monotonic()
        time.sleep(min(QUIET_SHARE * seconds, QUIET_MOST_S))
        before, attack = footprint(daemon), time.monotonic()
        watch.start()
        strikes = _strike(daemon.port, seed, seconds, names)
        end = time.monotonic()
        watch.stop()
        honest.stop()
        after, left = _settled(daemon, before)
        status = daemon.status()
        return Report(
            seed=seed,
            seconds=seconds,
            slower=slower,
            strikes=strikes,
            quiet=_seconds(honest.between(begun, attack)),
            attacked=_seconds(honest.between(attack, end)),
            failed=[
                f"at {one.begun - attack:.1f} s, {one.client}, after {one.seconds:.2f} s: {one.wrong}"
                for one in honest.asked
                if one.wrong
            ],
            wrong=watch.wrong,
            doors=len(status["bans"]),
            crashes=int(status["models"][0]["restarts"]),
            restarts_s=watch.restarts_s,
            status_s=watch.slowest_s,
            peak_bytes=peak_bytes(int(status["pid"])),
            before=before,
            after=after,
            left=left,
            alive=_alive(daemon),
        )


def _deadly(names: list[str]) -> list[str]:
    """As the daemon calls them."""
    number = list(ATTACKERS).index(UNKNOWN) + 1
    return [f"ip:{address}" for address in addresses(number)] if UNKNOWN in names else []


@contextlib.contextmanager
def _daemon() -> Iterator[DaemonUnderTest]:
    daemon = DaemonUnderTest(
        binary=binary.locate("auto"), model_path=ROOT / "models" / "demo.gguf", limits={"pools": POOLS}
    )
    daemon.expected_exit = None  # what is wrong is in the report
    with daemon:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        daemon.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)))
        daemon.wait_ready()
        daemon.baseline = None  # compared here, with the spare room of a long run
        yield daemon


def _strike(port: int, seed: int, seconds: float, names: list[str]) -> dict[str, dict[str, int]]:
    command = [sys.executable, "-m", "tests.attack.horde", f"--port={port}", f"--seed={seed}"]
    done = subprocess.run(
        [*command, f"--seconds={seconds}", *names],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=seconds + PARTING_S,
        check=True,
    )
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def _settled(daemon: DaemonUnderTest, before: Footprint) -> tuple[Footprint, int]:
    """The daemon once all have left, and how many requests it still has."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        now, left = footprint(daemon), -1
        with contextlib.suppress(LlmsupError):
            requests = daemon.status()["requests"]
            left = int(requests["in_flight"] + requests["queued"])
        if not left_over(before, now, left) or time.monotonic() >= deadline:
            return now, left
        time.sleep(0.2)


def _alive(daemon: DaemonUnderTest) -> bool:
    try:
        return daemon.chat(max_tokens=8, timeout_s=AFTERWARDS_S).status == 200
    except OSError:
        return False


def _seconds(asked: Iterable[Asked]) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one in asked:
        if not one.wrong:  # a refusal is quick
            found[one.client].append(one.seconds)
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
