"""`python -m tests.chaos.continuity`: kill llama-server once a second under clients that know what they should be told.

Greedy decoding, so a question has one answer; it is learnt first, by the same clients, undisturbed. Then each answer, streamed
or not, over every endpoint, must be that text to the character, whatever died meanwhile. Questions that are answered in two ways
already while nothing dies (two words as likely as each other, and rounding depends on what else is in the batch) are
left out, and counted. Exit code 1: an answer was not the one that was due.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.proc import binary
from tests.support import rawhttp
from tests.support.daemon import DaemonUnderTest
from tests.support.demo_model import make

TOKENS = 120
WORDS = ["river", "garden", "story", "worker", "sister", "morning", "letter", "window", "harbour", "kitchen"]
QUESTIONS = tuple(f"Question {n}: what is a {word}?" for n, word in enumerate(WORDS))
LEARN_S = 8.0
# Two words as likely as each other are chosen between by rounding, which depends on what else is in the batch.
EXACT = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
ANSWER_S = 60.0


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}


FORMS: dict[str, Any] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": TOKENS},
    "/completion": lambda text: {"prompt": text, "n_predict": TOKENS},
    "/v1/messages": _chat,
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": TOKENS},
}


@dataclass(frozen=True, slots=True)
class Told:
    """One answer. ``silence_s``: the longest time without a byte, where it was streamed."""

    text: str
    whole: bool
    continued: bool
    silence_s: float
    detail: str


def ask(port: int, path: str, text: str, *, streamed: bool) -> Told:
    body = FORMS[path](text) | {"temperature": 0, "stream": streamed}
    with rawhttp.connect(port, ANSWER_S) as sock:
        sock.sendall(rawhttp.request("POST", path, body))
        reader = _Listening(sock)
        answer = reader.response()
    detail = f"{answer.status} {answer.body[-200:]!r}"
    if answer.status != 200 or not answer.complete:
        return Told("", whole=False, continued=False, silence_s=0.0, detail=detail)
    continued = b": llmsup-continued" in answer.body
    said = streamed_text(path, answer.events()) if streamed else plain_text(path, answer.json())
    return Told(said, True, continued, max(reader.gaps, default=0.0), detail)


class _Listening(rawhttp.Reader):
    """Notes how long it is silent after the first byte."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.gaps: list[float] = []
        self._at: float | None = None

    def _fill(self) -> bool:
        more = super()._fill()
        now = time.monotonic()
        if self._at is not None:
            self.gaps.append(now - self._at)
        self._at = now
        return more


def streamed_text(path: str, events: list[str]) -> str:
    """What a client makes of the events; each kind of event names its text differently."""
    parts = []
    for data in events:
        if data == "[DONE]":
            continue
        event = json.loads(data)
        if path == "/v1/chat/completions":
            parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
        elif path == "/v1/completions":
            parts += [choice["text"] for choice in event["choices"]]
        elif path == "/completion":
            parts.append(event["content"])
        elif event.get("type") == "content_block_delta":
            parts.append(event["delta"]["text"])
        elif event.get("type") == "response.output_text.delta":
            parts.append(event["delta"])
    return "".join(parts)


def plain_text(path: str, answer: Any) -> str:
    if path == "/v1/chat/completions":
        return str(answer["choices"][0]["message"]["content"])
    if path == "/v1/completions":
        return str(answer["choices"][0]["text"])
    if path == "/completion":
        return str(answer["content"])
    if path == "/v1/messages":
        return str(answer["content"][0]["text"])
    return str(answer["output"][0]["content"][0]["text"])


@dataclass(slots=True)
class Report:
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)
    kills: int = 0
    unsure: int = 0  # questions left out
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, told: Told, expected: str, what: str) -> None:
        with self.lock:
            self.counts["answers"] += 1
            self.counts["continued"] += told.continued
            if told.continued:
                self.silences_s.append(told.silence_s)
            if told.whole and told.text == expected:
                return
            self.counts["failed" if not told.whole else "different"] += 1
            self.wrong.append(
                f"{what}: {told.detail if not told.whole else _difference(told.text, expected)}"
            )

    def __str__(self) -> str:
        quantiles = statistics.quantiles(self.silences_s, n=100) if len(self.silences_s) > 1 else [0.0] * 99
        return (
            f"{self.counts['answers']} answers over {self.kills} kills: {self.counts['continued']} streams continued, "
            f"{self.counts['failed']} failed, {self.counts['different']} different; "
            f"silence of a continued stream p50 {quantiles[49]:.3f} s, p99 {quantiles[98]:.3f} s "
            f"({self.unsure} of {len(FORMS) * len(QUESTIONS)} questions have no certain answer)"
        )


def _difference(got: str, expected: str) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
        min(len(got), len(expected)),
    )
    return f"at {at} of {len(expected)}: got {got[at - 20 : at + 40]!r}, expected {expected[at - 20 : at + 40]!r}"


Key = tuple[str, str]
Take = Callable[[Key, Told, str], None]


class Crowd:
    """Clients that ask by turns; what they are told goes to ``take``."""

    def __init__(
        self, daemon: DaemonUnderTest, clients: int, seed: int, asked: list[Key], take: Take
    ) -> None:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask_on, args=(daemon.port, random.Random(seed * 1000 + n), asked, take)
            )
            for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask_on(self, port: int, dice: random.Random, asked: list[Key], take: Take) -> None:
        while not self._over.is_set():
            path, text = dice.choice(asked)
            streamed = dice.random() < 0.6
            try:
                told = ask(port, path, text, streamed=streamed)
            except (OSError, ValueError, KeyError) as exc:
                told = Told("", whole=False, continued=False, silence_s=0.0, detail=repr(exc))
            take((path, text), told, f"{path} {'streamed' if streamed else 'whole'}")

    def leave(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(ANSWER_S)


def learn(daemon: DaemonUnderTest, clients: int, seed: int) -> dict[Key, set[str]]:
    """What is answered while nothing dies, with and without company."""
    known: dict[Key, set[str]] = {}
    lock = threading.Lock()

    def take(key: Key, told: Told, what: str) -> None:
        assert told.whole, (what, told.detail)
        with lock:
            known.setdefault(key, set()).add(told.text)

    keys = [(path, text) for path in FORMS for text in QUESTIONS]
    for key in keys:
        take(key, ask(daemon.port, *key, streamed=False), key[0])
    crowd = Crowd(daemon, clients, seed, keys, take)
    time.sleep(LEARN_S)
    crowd.leave()
    return known


def run(
    daemon: DaemonUnderTest, *, clients: int, seconds: float, pause_s: float = 1.0, seed: int = 1
) -> Report:
    """The daemon is READY. Every endpoint, streamed and not, by turns."""
    known = learn(daemon, clients, seed)
    sure = [key for key, texts in known.items() if len(texts) == 1]
    report = Report(unsure=len(known) - len(sure))
    assert len(sure) > len(known) // 2, "too little is certain already while nothing dies"
    crowd = Crowd(
        daemon, clients, seed, sure, lambda key, told, what: report.note(told, next(iter(known[key])), what)
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(pause_s)
        pid = daemon.model()["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            report.kills += 1
    crowd.leave()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    wish = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="llmsup-continuity-") as folder:
        model = make(Path(folder) / "endless.gguf", "--endless")
        for clients in wish.clients:
            with DaemonUnderTest(
                binary=binary.locate("auto"), model_path=model, models={"demo": {"args": EXACT}}
            ) as daemon:
                daemon.run()
                daemon.wait_ready()
                report = run(daemon, clients=clients, seconds=wish.seconds, seed=wish.seed)
            print(f"{clients} clients: {report}", *report.wrong[:10], sep="\n  ")
            good &= not report.wrong and report.kills > 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
