"""FAULTS 9 on the real llama-server: poison that differs by a byte, and the words that it has logged."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient
from tests.support import demo_model as demo_model_maker
from tests.support import rawhttp
from tests.support.daemon import DaemonUnderTest, running, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

BEHIND = {"trusted_proxies": ["127.0.0.1"]}
EVE, BOB = "192.0.2.66", "192.0.2.7"
FORGED = "insufficient memory"
SAFE_TOKENS = 1024


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_model_maker.make(tmp_path_factory.mktemp("endless") / "endless.gguf", "--endless")


@pytest.fixture
def daemon(llama_server_binary: Path, endless: Path) -> Iterator[DaemonUnderTest]:
    models = {"demo": {"safe_profile": {"context_size": SAFE_TOKENS}, "parallel": 2}}
    with running(binary=llama_server_binary, model_path=endless, models=models, proxy=BEHIND) as daemon:
        yield daemon


class Poison:
    """A request that never ends, and a crash whenever it is inside: whatever this build survives, that it does not.

    Its sampler's name is what llama-server logs of it.
    """

    def __init__(self, daemon: DaemonUnderTest, number: int) -> None:
        self._daemon = daemon
        self.reply: rawhttp.Response | None = None
        body = {"prompt": f"p{number}", "n_predict": -1, "samplers": [FORGED], "ignore_eos": True}
        self._thread = threading.Thread(target=self._ask, args=(body,), daemon=True)
        self._thread.start()

    def _ask(self, body: dict[str, object]) -> None:
        self.reply = self._daemon.ask("POST", "/completion", body, timeout_s=60.0, **{"X-Forwarded-For": EVE})

    def _inside(self) -> bool:
        rows = ControlClient(self._daemon.run_dir).get("/requests")["requests"]
        return any(row["client"] == f"ip:{EVE}" and row["phase"] != "waiting" for row in rows)

    def kills(self) -> tuple[int, str]:
        """What its sender is told in the end."""
        while self.reply is None:
            generation = self._daemon.wait_ready()["generation"]
            until(lambda: self._inside() or self.reply is not None, "it is inside, or refused")
            if self.reply is None:
                self._daemon.kill_child(signal.SIGSEGV)
                self._daemon.wait_next(generation)
                self._thread.join(0.5)
        code = self.reply.json()["error"]["code"]  # type: ignore[index,call-overload]
        return self.reply.status, code


def ask(daemon: DaemonUnderTest, text: str) -> int:
    body = {"prompt": text, "n_predict": 8}
    return daemon.ask("POST", "/completion", body, timeout_s=60.0, **{"X-Forwarded-For": BOB}).status


@pytest.mark.fault(9)
def test_poison_that_differs_by_a_byte_shuts_out_its_sender_and_nobody_else(daemon: DaemonUnderTest) -> None:
    honest: list[int] = []
    bob = threading.Thread(target=lambda: honest.extend(ask(daemon, f"hello {n}") for n in range(8)))
    bob.start()
    assert Poison(daemon, 0).kills() == (422, "request_quarantined")
    # The first crash suffices where nobody else was inside; else it is tried alone, and found by the second.
    assert Poison(daemon, 1).kills() in {(403, "client_banned"), (422, "request_quarantined")}
    assert Poison(daemon, 2).kills() == (403, "client_banned")
    bob.join()
    assert honest == [200] * 8
    one = daemon.wait_ready()
    assert (one["state"], one["degraded"]) == ("READY", None)
    assert [banned["client"] for banned in daemon.status()["bans"]] == [f"ip:{EVE}"]
    told = json.loads(daemon.cli("why", "--json").stdout)["deaths"]
    assert {death["cause"] for death in told} == {"segfault"}, "whatever was logged"
    assert any(FORGED in line for death in told for line in death["lines"])
