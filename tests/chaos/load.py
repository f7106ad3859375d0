"""Clients that ask without pause, and what became of every question.

They ask streamed and unstreamed, short and long, several times on one connection; they send slowly, read slowly, and
leave: while they send, before an answer, in the middle of one.
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.chaos.verdict import LEFT, LOST, WHOLE, Excuses, Outcome, judge
from tests.support import rawhttp
from tests.support.daemon import CHAT, chat_body

ANSWER_S = 90.0  # longer than a request may wait in the queue
PAUSE_S = 0.05  # of a client that was refused
SHOWN = 20
LEAVE_TOKENS = 200

Kind = Callable[["Clients", random.Random, str, int], Outcome]


@dataclass(slots=True)
class Outcomes:
    """``counts``: by kind (`verdict`); what was excused counts as ``<kind> by design``."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""  # which one that was
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: Outcome, seconds: float, at: float, faults: str, *, excused: bool) -> None:
        """``at``: when it was asked; ``faults``: the newest one then, and at the end."""
        with self._lock:
            self.counts[f"{outcome.kind} by design" if excused else outcome.kind] += 1
            if seconds > self.slowest_s:
                self.slowest_s, self.slowest = seconds, f"{outcome.kind}, at {at:.1f} s, {faults}"
            if outcome.kind in LOST and not excused and len(self.failures) < SHOWN:
                self.failures.append(
                    f"at {at:.1f} s, {faults}, after {seconds:.2f} s: {outcome.kind}: {outcome.detail}"
                )

    @property
    def lost(self) -> int:
        with self._lock:
            return sum(self.counts[kind] for kind in LOST)


class Clients:
    """``number`` threads, each with dice of its own. ``began``: monotonic seconds, what is told counts from there."""

    def __init__(self, port: int, number: int, seed: int, began: float) -> None:
        self.outcomes = Outcomes()
        self.number = number
        self.fault = "no fault yet"  # the newest one, for the report of what was lost
        self._port = port
        self._began = began
        self._excuses = Excuses()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask_on, args=(random.Random(seed * 1000 + n),), name=f"client-{n}", daemon=True
            )
            for n in range(number)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new questions; returns when the last answer has come."""
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_S)
            if thread.is_alive():
                now = self._since(time.monotonic())
                never = Outcome("failed", "never answered")
                self.outcomes.note(never, ANSWER_S, now, self.fault, excused=False)

    @contextmanager
    def excused(self, *kinds: str) -> Iterator[None]:
        """A fault is on that is specified to have such outcomes."""
        self._excuses.open(frozenset(kinds), time.monotonic())
        try:
            yield
        finally:
            self._excuses.close(time.monotonic())

    def _since(self, now: float) -> float:
        return now - self._began

    def _ask_on(self, dice: random.Random) -> None:
        names, weights = [kind for kind, _ in KINDS], [weight for _, weight in KINDS]
        while not self._stop.is_set():
            ask = dice.choices(names, weights)[0]
            text, tokens = self._question(dice), dice.choice([1, 20, 60, 120])
            begun, before = time.monotonic(), self.fault
            outcome = _told(ask, self, dice, text, tokens)
            ended = time.monotonic()
            excused = self._excuses.cover(outcome.kind, begun, ended)
            faults = f"{before} .. {self.fault}"
            self.outcomes.note(outcome, ended - begun, self._since(begun), faults, excused=excused)
            if outcome.kind in LOST:
                time.sleep(PAUSE_S)

    def _question(self, dice: random.Random) -> str:
        return f"question {dice.randrange(10**6)}" + " and so on" * dice.choice([0, 0, 0, 60])

    # ---- ways to ask

    def whole(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        body = chat_body(text, max_tokens=tokens)
        return judge(rawhttp.ask(self._port, "POST", CHAT, body, timeout_s=ANSWER_S), stream=False)

    def streamed(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        body = chat_body(text, max_tokens=tokens, stream=True)
        return judge(rawhttp.ask(self._port, "POST", CHAT, body, timeout_s=ANSWER_S), stream=True)

    def several(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        """Three questions on one connection: it outlives the child between them."""
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            reader = rawhttp.Reader(sock)
            for number in range(3):
                sock.sendall(rawhttp.request("POST", CHAT, chat_body(f"{text} {number}", max_tokens=tokens)))
                reply = reader.response()
                outcome = judge(reply, stream=False)
                if outcome is not WHOLE or (reply.header("connection") or "").lower() == "close":
                    return outcome
        return WHOLE

    def sending_slowly(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        data = rawhttp.request("POST", CHAT, chat_body(text, max_tokens=tokens))
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            for at in range(0, len(data), 40):
                sock.sendall(data[at : at + 40])
                time.sleep(0.02)
            return judge(rawhttp.Reader(sock).response(), stream=False)

    def reading_slowly(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        body = chat_body(text, max_tokens=tokens, stream=True)
        with rawhttp.connect(self._port, ANSWER_S, receive_buffer=4096) as sock:
            sock.sendall(rawhttp.request("POST", CHAT, body))
            return judge(_SlowReader(sock).response(), stream=True)

    def leaving_while_sending(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        data = rawhttp.request("POST", CHAT, chat_body(text, max_tokens=LEAVE_TOKENS))
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            sock.sendall(data[: dice.randrange(1, len(data))])
        return LEFT

    def leaving_before_the_answer(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        """In the queue, or in the middle of the prompt; at once, or a moment later."""
        body = chat_body(text, max_tokens=LEAVE_TOKENS, stream=dice.random() < 0.5)
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            sock.sendall(rawhttp.request("POST", CHAT, body))
            time.sleep(dice.choice([0.0, 0.05]) * dice.random())
        return LEFT

    def leaving_in_the_answer(self, dice: random.Random, text: str, tokens: int) -> Outcome:
        body = chat_body(text, max_tokens=LEAVE_TOKENS, stream=True)
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            sock.sendall(rawhttp.request("POST", CHAT, body))
            try:
                return judge(_Leaver(sock, dice.randrange(1, 10)).response(), stream=True)
            except _Gone:
                return LEFT


class _SlowReader(rawhttp.Reader):
    """Some 50 kB a second: a long answer piles up in llmsup."""

    def _fill(self) -> bool:
        time.sleep(0.01)
        try:
            data = self.sock.recv(512)
        except ConnectionResetError:
            self.was_reset = True
            return False
        self.buffer += data
        return bool(data)


class _Gone(Exception):
    """The client has seen enough."""


class _Leaver(rawhttp.Reader):
    """Reads so many times and no more."""

    def __init__(self, sock: socket.socket, reads: int) -> None:
        super().__init__(sock)
        self._reads = reads

    def _fill(self) -> bool:
        if not self._reads:
            raise _Gone
        self._reads -= 1
        return super()._fill()


def _told(ask: Kind, clients: Clients, dice: random.Random, text: str, tokens: int) -> Outcome:
    """What became of the question, when there was no answer at all too."""
    try:
        return ask(clients, dice, text, tokens)
    except TimeoutError as exc:
        return Outcome("failed", f"no answer: {exc!r}")
    except OSError as exc:  # refused, reset, closed before a head
        return Outcome("unreachable", repr(exc))


KINDS: list[tuple[Kind, int]] = [
    (Clients.whole, 36),
    (Clients.streamed, 32),
    (Clients.several, 8),
    (Clients.sending_slowly, 4),
    (Clients.reading_slowly, 5),
    (Clients.leaving_while_sending, 4),
    (Clients.leaving_before_the_answer, 6),
    (Clients.leaving_in_the_answer, 5),
]
