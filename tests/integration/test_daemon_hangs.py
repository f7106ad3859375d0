"""FAULTS 12-14 and 17: what hangs is found out, confirmed and replaced; what is slow is left alone.

``request_timeout_s: 2`` makes the limits short: 2 s of stillness, and canaries of 5 s.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import rawhttp
from tests.support.daemon import DaemonUnderTest, answer_of, running, until

QUICK = {"request_timeout_s": 2}
FOUND_S = 60.0  # stillness, two canaries, and a machine that has other things to do
# What hangs, how (None: by SIGSTOP), and the request that is in it then (None: it idles).
HANGS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "stopped-idle": (None, None),
    "stopped-busy": (None, {"fake": {"first_token_delay_s": 3.0}}),
    "stopped-stream": (None, {"stream": True, "max_tokens": 80, "fake": {"token_delay_s": 0.05}}),
    "mute": ({"hang": "request"}, {}),
    "no-tokens": ({"hang": "health_ok_tokens_hang"}, {}),
    "pings-only": ({"hang": "health_ok_tokens_hang"}, {"stream": True, "sse_ping_interval": 1}),
    "loop": ({"hang": "loop"}, {}),
    "all": ({"hang": "all"}, {}),
}


class Asking(threading.Thread):
    """One request in the background, and when it was over."""

    def __init__(self, daemon: DaemonUnderTest, model: str, **body: Any) -> None:
        super().__init__(daemon=True)
        self._reply: rawhttp.Response | None = None
        self._ask = lambda: daemon.chat(model=model, timeout_s=90, **body)
        self.start()

    def run(self) -> None:
        self._reply = self._ask()

    @property
    def reply(self) -> rawhttp.Response:
        self.join(90)
        assert self._reply is not None
        return self._reply


class Switches:
    """The fake's, for each model by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def model(self, name: str) -> dict[str, Any]:
        self.set(name)
        return {"fake": {"control": self._folder / name}}

    def set(self, name: str, **switches: object) -> None:
        fresh = self._folder / f"{name}.new"
        fresh.write_text(json.dumps(switches))
        fresh.replace(self._folder / name)


# Real time must pass for a hang to be told from patience.
pytestmark = pytest.mark.slow


@pytest.fixture
def one() -> Iterator[DaemonUnderTest]:
    with running(proxy=QUICK) as daemon:
        yield daemon


def begin(daemon: DaemonUnderTest, switches: Switches) -> tuple[dict[str, float], dict[str, Asking]]:
    """Let all of `HANGS` happen; returns when each began to hang, and who asks."""
    begun: dict[str, float] = {}
    asking: dict[str, Asking] = {}
    for name, (fault, body) in HANGS.items():
        if fault is not None:
            switches.set(name, **fault, fault_runs=1)
        if body is not None:
            asking[name] = Asking(daemon, name, **body)
    until(lambda: daemon.status()["requests"]["in_flight"] == len(asking), "all are inside")
    time.sleep(0.3)  # some tokens of the stream
    for name, (fault, _) in HANGS.items():
        begun[name] = time.monotonic()
        if fault is None:
            daemon.kill_child(signal.SIGSTOP, name)
    return begun, asking


@pytest.mark.fault(12, 13)
@pytest.mark.timeout(240)
def test_every_kind_of_hang_is_found_and_replaced_and_its_requests_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All at once, each in a model of its own; a bystander notices nothing."""
    switches = Switches(tmp_path)
    models = {name: switches.model(name) for name in ("bystander", *HANGS)}
    proxy = QUICK | {"max_concurrent_requests": 20}
    with running(models=models, proxy=proxy) as daemon:
        for name in models:
            daemon.wait_ready(name)
        bystander = daemon.model("bystander")["pid"]
        begun, asking = begin(daemon, switches)
        found: dict[str, float] = {}

        def all_found() -> bool:
            for now in daemon.status()["models"]:
                if now["name"] in HANGS and now["generation"] == 2 and now["state"] == "READY":
                    found.setdefault(now["name"], time.monotonic() - begun[now["name"]])
            return len(found) == len(HANGS)

        until(all_found, "all have been replaced", FOUND_S)
        with capsys.disabled():
            print("\nfrom the hang to the next READY:", {name: round(s, 1) for name, s in found.items()})
        for name in ("stopped-stream", "pings-only"):  # their heads, and of one some text, had gone out
            assert asking[name].reply.events()[-1] == "[DONE]"
            assert b": llmsup-continued" in asking[name].reply.body
        assert {name: request.reply.status for name, request in asking.items()} == dict.fromkeys(asking, 200)
        for name in HANGS:
            death = daemon.model(name)["last_death"]
            assert (death["cause"], death["signal"]) == ("hung", "SIGKILL"), name
            assert "one-token requests" in death["detail"]
        assert daemon.model("bystander")["pid"] == bystander
        assert daemon.model("bystander")["suspect"] is None


def test_while_it_is_suspect_health_says_so_and_requests_wait_and_it_may_come_back(
    one: DaemonUnderTest,
) -> None:
    one.kill_child(signal.SIGSTOP)
    suspect = one.wait_for(lambda now: now["suspect"], "suspicion")
    assert "stopped" in suspect["suspect"]
    health = one.health()
    assert (health.status, health.json()["status"], health.json()["state"]) == (503, "suspect", "READY")
    assert "stopped" in health.json()["error"]
    assert "suspected to hang" in one.cli("status").stdout
    waiting = Asking(one, "demo")
    until(lambda: one.status()["requests"]["queued"] == 1, "it waits")
    one.kill_child(signal.SIGCONT)
    assert answer_of(waiting.reply)
    now = one.wait_for(lambda now: now["suspect"] is None, "cleared")
    assert (now["generation"], now["state"]) == (1, "READY")
    assert one.ask("GET", "/health").status == 200


@pytest.mark.fault(14)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "slow", [{"first_token_delay_s": 7.0}, {"token_delay_s": 3.0}], ids=["prefill", "decode"]
)
def test_what_is_slow_is_left_alone(one: DaemonUnderTest, slow: dict[str, float], stream: bool) -> None:
    """Its counters move, or its bytes do; three such at once, so that a canary has a slot and has to share."""
    asking = [Asking(one, "demo", stream=stream, max_tokens=3, fake=slow) for _ in range(3)]
    assert [request.reply.status for request in asking] == [200] * 3
    assert all(request.reply.complete for request in asking)
    now = one.model()
    assert (now["generation"], now["restarts"], now["suspect"]) == (1, 0, None)


@pytest.mark.fault(14)
def test_a_canary_behind_slow_work_in_every_slot_kills_nobody() -> None:
    models = {"demo": {"parallel": 1}}
    with running(models=models, proxy=QUICK) as daemon:
        reply = daemon.chat(max_tokens=5, fake={"token_delay_s": 3.0}, timeout_s=60)
        assert reply.status == 200
        assert daemon.model()["generation"] == 1


def test_one_request_that_stands_still_by_itself_is_given_up_and_nothing_is_killed(
    one: DaemonUnderTest,
) -> None:
    begun = time.monotonic()
    reply = one.chat(fake={"hang": "request"}, timeout_s=60)
    assert (reply.status, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert time.monotonic() - begun < 25
    assert (one.model()["generation"], one.model()["suspect"]) == (1, None)
    assert one.chat().status == 200


@pytest.mark.fault(17)
@pytest.mark.timeout(240)
def test_after_three_kills_it_is_left_alone_and_requests_are_told_so() -> None:
    with running(proxy=QUICK | {"queue_timeout_s": 3}) as daemon:
        for generation in (1, 2, 3):
            daemon.kill_child(signal.SIGSTOP)
            daemon.wait_for(
                lambda now, past=generation: now["generation"] > past and now["state"] == "READY",
                "the next",
                within_s=FOUND_S,
            )
        daemon.kill_child(signal.SIGSTOP)
        now = daemon.wait_for(
            lambda now: now["suspect"] and "3 kills" in now["suspect"], "left alone", within_s=FOUND_S
        )
        assert (now["generation"], now["state"]) == (4, "READY")
        refused = daemon.chat()
        assert (refused.status, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert "3 kills" in refused.json()["error"]["message"]
        daemon.kill_child(signal.SIGCONT)
        daemon.wait_for(lambda now: now["suspect"] is None, "it lives again", within_s=FOUND_S)
        assert daemon.chat().status == 200
        assert daemon.model()["generation"] == 4
