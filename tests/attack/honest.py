"""Three honest clients that ask all the time, streamed and not, and how long each of their answers took."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.verdict import WHOLE, judge
from tests.support import rawhttp
from tests.support.daemon import CHAT, chat_body

ANSWER_S = 60.0
PAUSE_S = 0.3
TOKENS = 120  # long enough that an answer is work, not a round trip


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. ``begun``: monotonic seconds; ``wrong``: what was not right with the answer, "" for nothing."""

    client: str
    begun: float
    seconds: float
    wrong: str


@dataclass(frozen=True, slots=True)
class Person:
    """``address``: where it asks from; ``key``: "" for one that has none."""

    name: str
    address: str
    key: str


def people(key: str, other: str) -> list[Person]:
    return [
        Person("without a key", "127.77.0.1", ""),
        Person("with a key", "127.77.0.2", key),
        Person("with another key", "127.77.0.3", other),
    ]


class Honest:
    """A thread each. ``asked`` grows while they live."""

    def __init__(self, port: int, some: list[Person]) -> None:
        self.asked: list[Asked] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(one,), name=one.name, daemon=True) for one in some
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when the last answer has come."""
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_S + 1.0)

    def between(self, begin: float, end: float) -> Iterator[Asked]:
        """Those asked in that time."""
        return (one for one in list(self.asked) if begin <= one.begun < end)

    def _ask_on(self, person: Person) -> None:
        number = 0
        while not self._stop.is_set():
            begun = time.monotonic()
            wrong = self._ask(person, number)
            self.asked.append(Asked(person.name, begun, time.monotonic() - begun, wrong))
            number += 1
            self._stop.wait(PAUSE_S)

    def _ask(self, person: Person, number: int) -> str:
        stream = number % 2 == 1
        # Everybody says that sometimes; poison must not make it a suspect.
        text = "good morning" if number % 4 == 0 else f"Tell me story {number}"
        body = chat_body(text, max_tokens=TOKENS, ignore_eos=True, stream=stream)
        head = {"Authorization": f"Bearer {person.key}"} if person.key else {}
        try:
            reply = rawhttp.ask(
                self._port, "POST", CHAT, body, head, timeout_s=ANSWER_S, source=person.address
            )
        except OSError as exc:
            return f"no answer: {exc!r}"
        outcome = judge(reply, stream=stream)
        return "" if outcome is WHOLE else f"{outcome.kind}: {outcome.detail}"
