"""Clients that ask without pause, and what became of every question."""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support import rawhttp
from tests.support.daemon import CHAT, chat_body

ANSWER_S = 70.0  # longer than a request may wait in the queue


@dataclass(slots=True)
class Outcomes:
    """``counts``: whole, cut (a stream that said it was cut), left (the client went), failed, torn (a cut that
    looked finished, or was not said: the one thing that must never be).
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, seconds: float, detail: str = "") -> None:
        with self._lock:
            self.counts[what] += 1
            self.waits_s.append(seconds)
            if detail and len(self.failures) < 20:
                self.failures.append(detail)


class Clients:
    """``number`` threads; each asks streamed and unstreamed questions in turn, and sometimes leaves early."""

    def __init__(self, port: int, number: int, seed: int) -> None:
        self.outcomes = Outcomes()
        self._port = port
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(random.Random(seed * 1000 + n),), name=f"client-{n}")
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

    def _ask_on(self, dice: random.Random) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                what, detail = self._ask(dice)
            except (OSError, EOFError, ValueError, AssertionError) as exc:
                what, detail = "failed", f"{type(exc).__name__}: {exc}"
            self.outcomes.note(what, time.monotonic() - begun, detail)

    def _ask(self, dice: random.Random) -> tuple[str, str]:
        text, tokens = f"question {dice.randrange(10**6)}", dice.choice([1, 20, 60, 120])
        kind = dice.random()
        if kind < 0.5:
            reply = rawhttp.ask(
                self._port, "POST", CHAT, chat_body(text, max_tokens=tokens), {}, timeout_s=ANSWER_S
            )
            if reply.status == 200 and reply.complete:
                json.loads(reply.body)
                return "whole", ""
            return "failed", f"{reply.status}: {reply.body[:200]!r}"
        if kind < 0.9:
            return self._stream(text, tokens)
        return self._leave(text, dice.random() * 0.05)

    def _stream(self, text: str, tokens: int) -> tuple[str, str]:
        body = chat_body(text, max_tokens=tokens, stream=True)
        reply = rawhttp.ask(self._port, "POST", CHAT, body, {}, timeout_s=ANSWER_S)
        if reply.status != 200:
            return "failed", f"{reply.status}: {reply.body[:200]!r}"
        done = reply.body.endswith(b"data: [DONE]\n\n")
        if done and reply.complete:
            return "whole", ""
        if not done and not reply.complete:
            return "cut", ""
        return "torn", repr(reply.body[-300:])

    def _leave(self, text: str, after_s: float) -> tuple[str, str]:
        with rawhttp.connect(self._port, ANSWER_S) as sock:
            sock.sendall(rawhttp.request("POST", CHAT, chat_body(text, max_tokens=200, stream=True)))
            time.sleep(after_s)
        return "left", ""
