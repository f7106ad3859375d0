"""`python -m tests.attack.horde`: the attackers, in a process of their own, which ends by itself.

They have an interpreter of their own, so that what they take of it is not taken for slowness of llmsup, and run with
low priority: a stranger's computing is done on the stranger's machine. Prints what became of their strikes, as JSON.
"""

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from typing import NoReturn

from tests.attack.arsenal import ATTACKERS
from tests.attack.attacker import MOST_STRIKES, Assault, Attacker, addresses

NICE = 10
PARTING_S = 5.0  # for those who wait for an answer; then they are left standing


class Horde:
    """``names``: of `ATTACKERS`; each has addresses by its place among all of them, whoever else attacks."""

    def __init__(self, port: int, seed: int, names: list[str]) -> None:
        self._stop = threading.Event()
        self._assaults: dict[str, list[Assault]] = {}
        self._threads: list[threading.Thread] = []
        for number, (name, attacker) in enumerate(ATTACKERS.items(), 1):
            for worker in range(attacker.workers if name in names else 0):
                dice = random.Random(f"{seed} {name} {worker}")
                assault = Assault(port, addresses(number), dice, self._stop)
                self._assaults.setdefault(name, []).append(assault)
                self._threads.append(
                    threading.Thread(target=self._strike_on, args=(attacker, assault), name=name, daemon=True)
                )

    def rage(self, seconds: float) -> dict[str, Counter[str]]:
        """Attack for that long; what became of the strikes, by attacker."""
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        deadline = time.monotonic() + PARTING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for thread, assault in zip(self._threads, self._in_order(), strict=True):
            if thread.is_alive():
                assault.tally["unfinished"] += 1
        return {
            name: sum((Counter(some.tally) for some in assaults), Counter())
            for name, assaults in self._assaults.items()
        }

    def _in_order(self) -> list[Assault]:
        return [assault for assaults in self._assaults.values() for assault in assaults]

    def _strike_on(self, attacker: Attacker, assault: Assault) -> None:
        while assault.strikes < MOST_STRIKES and not self._stop.is_set():
            try:
                attacker.act(assault)
            except (OSError, ValueError, IndexError) as exc:  # no connection; an answer that is none
                assault.tally[type(exc).__name__] += 1
            assault.strikes += 1
            self._stop.wait(attacker.pause_s)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("names", nargs="+", choices=list(ATTACKERS))
    options = parser.parse_args()
    os.nice(NICE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    done = Horde(options.port, options.seed, options.names).rage(options.seconds)
    print(json.dumps(done), flush=True)
    os._exit(0)  # threads that still wait for an answer wait for nobody


if __name__ == "__main__":
    sys.exit(main())
