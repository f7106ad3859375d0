"""What one decision on a client costs in CPU time, with 100,000 clients known. How to read it: benchmarks/README.md.

python -m benchmarks.limits [--clients N] [--rounds N]

Clients come in an order of chance, each 2 s after its last request: little of theirs is in the processor's caches, and
each changes its place in the order of the least recently seen. The calls are measured in turns, some
hundred clients at a time; told is the median of all turns, less the loop around the calls.
"""

import argparse
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from supervisor.proxy import limit_headers
from supervisor.ratelimit.limiter import Grant, Limiter, Refused
from supervisor.ratelimit.pools import Pool, pool

CLIENTS, ROUNDS = 100_000, 3
TURN = 500  # clients
STEP_NS = 20_000  # between two requests: 2 s for 100,000
limited = partial(pool, requests_per_minute=60, requests_per_hour=3600)
together = partial(pool, requests_per_minute=10**9, requests_per_hour=10**10, shared=True)
USED = 300  # tokens of each request
WALL = datetime(2026, 1, 1, tzinfo=UTC)


class Subject:
    """A limiter that is asked for every client in turn, and what is measured on it."""

    def __init__(self, mine: Pool, everybody: Pool | None = None) -> None:
        shared = {} if everybody is None else {mine.name: everybody}
        self.limiter = Limiter({mine.name: mine}, default=mine.name, shared=shared)
        self.pool = mine.name

    def turn(self, names: list[str], times: range) -> dict[str, float]:
        """One request of each: ns a call, by what was called. The calls stand in the loops, for one more would count."""
        admit, name_of_pool = self.limiter.admit, self.pool
        answers: list[Grant | Refused] = []
        told, begun = {}, time.thread_time_ns()
        for name, now in zip(names, times, strict=True):
            answers.append(admit(name, name_of_pool, USED, now))
        told["admit"] = time.thread_time_ns() - begun
        grants = [answer for answer in answers if isinstance(answer, Grant)]
        if grants:
            lines, lines_anthropic = limit_headers.lines, limit_headers.lines_anthropic
            begun = time.thread_time_ns()
            for grant, now in zip(grants, times, strict=True):
                lines(grant, now)
            told["lines"] = time.thread_time_ns() - begun
            begun = time.thread_time_ns()
            for grant, now in zip(grants, times, strict=True):
                lines_anthropic(grant, now, WALL)
            told["lines, Anthropic"] = time.thread_time_ns() - begun
            begun = time.thread_time_ns()
            for grant, now in zip(grants, times, strict=True):
                grant.settle(USED - 1, now)
            told["settle"] = time.thread_time_ns() - begun
        around = _loop(names, times)
        return {what: (taken - around) / len(names) for what, taken in told.items()}


def _loop(names: list[str], times: range) -> int:
    begun = time.thread_time_ns()
    for _ in zip(names, times, strict=True):
        pass
    return time.thread_time_ns() - begun


SUBJECTS: dict[str, tuple[Pool, Pool | None]] = {
    "unlimited": (pool("free"), None),
    "one level (rpm, rph)": (limited("user"), None),
    "two levels (rpm, rph, and those of all)": (
        limited("anonymous"),
        together("anonymous"),
    ),
    "one level (rpm, rph, tpm, tpd)": (limited("keys", tokens_per_minute=10**6, tokens_per_day=10**9), None),
    "refused (rpm, rph)": (pool("spent", requests_per_minute=60, requests_per_hour=1), None),
}


def measure(subject: Subject, clients: int, rounds: int) -> dict[str, float]:
    """The median of the turns, in ns, by call; the first round makes the accounts and does not count."""
    chance = random.Random(1)
    found: dict[str, list[float]] = {}
    numbers = list(range(clients))
    now_ns = time.monotonic_ns()
    for number in range(rounds + 1):
        chance.shuffle(numbers)
        for first in range(0, clients, TURN):
            # New texts each time, as requests bring them: what is kept of the old ones is of no use.
            names = [f"ip:2001:db8:{one:x}::/64" for one in numbers[first : first + TURN]]
            times = range(now_ns, now_ns + len(names) * STEP_NS, STEP_NS)
            now_ns = times.stop
            for what, taken in subject.turn(names, times).items():
                if number:
                    found.setdefault(what, []).append(taken)
    return {what: statistics.median(values) for what, values in found.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="limits", description="what a decision on a client costs")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    for name, (mine, everybody) in SUBJECTS.items():
        row = measure(Subject(mine, everybody), max(1, options.clients), max(1, options.rounds))
        print(name)
        for what, taken in row.items():
            print(f"  {what:<18} {taken / 1000:5.2f} us")
        if "settle" in row:
            print(f"  {'a request':<18} {(row['admit'] + row['lines'] + row['settle']) / 1000:5.2f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
