"""What an attacker is, and what it works with: addresses of its own, seeded dice, and a tally of what came of it.

Addresses of attackers are in 127.66.0.0/16, honest clients' elsewhere: limits and bans count by address.
"""

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support import rawhttp

ANSWER_S = 30.0  # an attacker waits no longer
ADDRESSES = 3  # of each attacker
MOST_STRIKES = 5000  # of each attacker in a run, whatever its pace


@dataclass(frozen=True, slots=True)
class Attacker:
    """``rows`` of `tests.support.attacks`; ``act``: one strike; ``pause_s``: between two of one worker."""

    name: str
    rows: tuple[int, ...]
    act: Callable[["Assault"], None]
    pause_s: float
    workers: int = 1


@dataclass(slots=True)
class Assault:
    """One worker of an attacker. ``stop``: the run is over; whoever holds connections lets go."""

    port: int
    addresses: tuple[str, ...]
    dice: random.Random
    stop: threading.Event
    strikes: int = 0
    tally: Counter[str] = field(default_factory=Counter)

    @property
    def address(self) -> str:
        return self.addresses[self.strikes % len(self.addresses)]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | dict[str, object] | None = None,
        headers: Iterable[tuple[str, str]] = (),
        *,
        timeout_s: float = ANSWER_S,
    ) -> None:
        """One request on a connection of its own; what became of it is in the tally."""
        self.send(rawhttp.request(method, path, body, list(headers)), timeout_s=timeout_s)

    def send(self, data: bytes, *, timeout_s: float = ANSWER_S) -> None:
        """Any bytes, and the first answer to them."""
        try:
            with self.connect(timeout_s) as sock:
                # Refused before the end of a body: the answer is there all the same.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(data)
                self.tally[str(rawhttp.Reader(sock).response().status)] += 1
        except TimeoutError:
            self.tally["no answer"] += 1
        except OSError:
            self.tally["closed"] += 1

    def connect(self, timeout_s: float = ANSWER_S, *, receive_buffer: int | None = None) -> socket.socket:
        return rawhttp.connect(self.port, timeout_s, receive_buffer=receive_buffer, source=self.address)

    def unique(self) -> str:
        """Differs each time."""
        return f"{self.strikes}-{self.dice.randrange(10**9)}"


def addresses(number: int) -> tuple[str, ...]:
    """Those of the nth attacker."""
    return tuple(f"127.66.{number}.{last}" for last in range(1, ADDRESSES + 1))
