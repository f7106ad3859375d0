"""FAULTS 1-6, 10 and 52: the child ends, in every manner, and the daemon carries on."""

import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support import rawhttp
from tests.support.daemon import CHAT, DEADLINE_S, DaemonUnderTest, answer_of, chat_body, running, until

# How it ends, and what status says of it: cause, signal, exit code.
DEATHS = {
    "sigkill": (signal.SIGKILL, ("killed", "SIGKILL", None)),
    "sigsegv": (signal.SIGSEGV, ("segfault", "SIGSEGV", None)),
    "sigabrt": (signal.SIGABRT, ("aborted", "SIGABRT", None)),
    "exit-0": (signal.SIGTERM, ("exited", None, 0)),
}


@pytest.fixture(scope="module")
def killed() -> Iterator[DaemonUnderTest]:
    """For the tests whose child is killed, which never makes it wait before the next."""
    with running() as daemon:
        yield daemon


@pytest.fixture
def daemon(killed: DaemonUnderTest) -> DaemonUnderTest:
    killed.wait_ready()
    return killed


def steady(one: dict[str, Any]) -> dict[str, Any]:
    """Without what changes by itself."""
    return {key: value for key, value in one.items() if key not in {"uptime_s", "rss_bytes", "memory"}}


@pytest.mark.fault(1)
def test_every_death_while_idle_is_seen_named_and_mended_while_others_do_not_notice() -> None:
    models: dict[str, dict[str, object]] = {name: {} for name in ("bystander", *DEATHS)}
    with running(models=models) as daemon:
        for name in models:
            daemon.wait_ready(name)
        bystander = steady(daemon.model("bystander"))
        for name, (number, _) in DEATHS.items():
            daemon.kill_child(number, name)
        for name, (_, expected) in DEATHS.items():
            one = daemon.wait_next(1, name)
            death = one["last_death"]
            assert (death["cause"], death["signal"], death["exit_code"]) == expected
            assert one["restarts"] == 1
            assert answer_of(daemon.chat(model=name))
        assert steady(daemon.model("bystander")) == bystander


@pytest.mark.fault(1)
def test_a_killed_idle_child_is_replaced_at_once_every_time(daemon: DaemonUnderTest) -> None:
    before = daemon.model()["restarts"]
    for _ in range(5):
        generation = daemon.kill_child()
        # 1 s would be the shortest backoff.
        daemon.wait_for(lambda one, past=generation: one["generation"] > past, "a new one", within_s=0.9)
        daemon.wait_ready()
    assert daemon.model()["restarts"] == before + 5


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    ("crash_signal", "stream"), [("SIGKILL", False), ("SIGKILL", True), ("SIGSEGV", True)]
)
def test_a_request_whose_child_dies_before_the_first_byte_is_answered_by_the_next(
    daemon: DaemonUnderTest, crash_signal: str, stream: bool
) -> None:
    before = daemon.status()
    generation = before["models"][0]["generation"]
    fake = {"crash_signal": crash_signal, "crash_at": "request", "fault_runs": daemon.starts()}
    reply = daemon.chat(fake=fake, stream=stream)
    assert reply.status == 200
    assert reply.complete
    assert reply.header("x-llmsup-retries") == "1"
    assert (reply.events()[-1] == "[DONE]") if stream else answer_of(reply)
    after = daemon.status()
    assert after["requests"]["failed"] == before["requests"]["failed"]
    assert after["models"][0]["generation"] == generation + 1


@pytest.mark.fault(3)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/completion"])
def test_a_stream_whose_child_dies_goes_on_with_the_next(daemon: DaemonUnderTest, path: str) -> None:
    generation = daemon.model()["generation"]
    body = chat_body("Hello", stream=True, max_tokens=8) | {"prompt": "Hello", "n_predict": 8}
    due = daemon.ask("POST", path, body).events()
    fake = {"crash_signal": "SIGKILL", "crash_at": "chunk:3", "fault_runs": daemon.starts()}
    reply = daemon.ask("POST", path, body | {"fake": fake})
    assert reply.status == 200
    assert reply.complete
    assert texts(reply.events()) == texts(due)
    assert reply.body.count(b": llmsup-continued\n\n") == 1
    assert len({json.loads(event).get("id") for event in reply.events() if event != "[DONE]"}) == 1
    daemon.wait_next(generation)
    assert daemon.model()["last_death"]["cause"] == "killed"


def texts(events: list[str]) -> str:
    """What a client makes of them, in any of the three forms."""
    said = ""
    for event in (json.loads(data) for data in events if data != "[DONE]"):
        for choice in event.get("choices", [{"text": event.get("content")}]):
            said += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return said


@pytest.mark.fault(3)
@pytest.mark.parametrize("option", [{"n": 2}, {"logprobs": True}, {"tool_call": True}])
def test_a_stream_that_could_not_go_on_rightly_never_looks_finished(
    daemon: DaemonUnderTest, option: dict[str, object]
) -> None:
    fake = {"crash_signal": "SIGKILL", "crash_at": "chunk:3"}
    generation = daemon.model()["generation"]
    switches, asked = (option, {}) if "tool_call" in option else ({}, option)
    body = chat_body("Hello", stream=True, fake=fake | switches, **asked)
    reply = daemon.ask("POST", CHAT, body)
    assert reply.status == 200
    assert not reply.complete  # no last chunk
    *_, last = reply.events()
    assert '"code": "upstream_crashed"' in last
    assert '"source": "llmsup"' in last
    assert "[DONE]" not in reply.events()
    daemon.wait_next(generation)
    assert daemon.model()["last_death"]["cause"] == "killed"


@pytest.mark.fault(4)
def test_killed_again_and_again_under_load_no_whole_answer_fails(daemon: DaemonUnderTest) -> None:
    """FAULTS 4, with answers that are not streamed: each is asked again until it comes."""
    answers: list[rawhttp.Response] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(daemon.chat(max_tokens=5, fake={"token_delay_s": 0.01}))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    failed = daemon.status()["requests"]["failed"]
    for _ in range(5):
        seen = len(answers)
        until(lambda seen=seen: len(answers) >= seen + 8, "eight more answers")
        daemon.wait_next(daemon.kill_child())
    stop.set()
    for one in clients:
        one.join(DEADLINE_S)
    assert {answer.status for answer in answers} == {200}
    assert len({answer_of(answer) for answer in answers}) == 1
    assert daemon.status()["requests"]["failed"] == failed


@pytest.mark.fault(5, 6)
def test_one_that_dies_soon_every_time_is_tried_again_later_and_later() -> None:
    """FAULTS 5 and 6: to have been READY for a moment is no merit."""
    models: dict[str, dict[str, Any]] = {
        "loads-never": {"fake": {"load_exit": 3}},
        "serves-briefly": {"fake": {"exit_after_ready_s": 0.05, "exit_code": 3}},
    }
    causes = {"loads-never": "load_failed", "serves-briefly": "exited"}
    with DaemonUnderTest(models=models) as daemon:
        daemon.run()
        for name, cause in causes.items():
            one = daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF", name)
            assert 0 < one["next_try_s"] <= 1.25
            assert (one["last_death"]["cause"], one["last_death"]["exit_code"]) == (cause, 3)
        health = daemon.ask("GET", "/health")
        assert health.status == 503
        assert health.json() == {"status": "starting", "state": "BACKOFF"}  # the cause is not for strangers
        for name in causes:
            again = daemon.wait_for(
                lambda one: one["generation"] == 2 and one["state"] == "BACKOFF", "BACKOFF again", name
            )
            assert 1.25 < again["next_try_s"] <= 2.5


def test_a_restart_ends_a_backoff_at_once() -> None:
    with running() as daemon:
        daemon.kill_child(signal.SIGSEGV)
        daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF")
        done = daemon.cli("restart")
        assert done.returncode == 0, done.stderr
        assert daemon.model()["uptime_s"] < 1.0


@pytest.mark.fault(10)
def test_grandchildren_are_gone_before_the_next_generation() -> None:
    with running(models={"demo": {"fake": {"spawn_grandchild": True}}}) as daemon:
        # Between its fork and its exec a sleeper is not called so yet.
        sleepers = until(lambda: daemon.alive(needle="sleep"), "the first one's grandchild")
        assert len(sleepers) == 1
        daemon.kill_child()
        daemon.wait_next(1)
        assert sleepers[0] not in daemon.alive(needle="sleep")
        until(lambda: len(daemon.alive(needle="sleep")) == 1, "the next one's grandchild")


@pytest.mark.fault(11)
def test_one_that_forks_away_from_its_parent_is_ended_and_counted() -> None:
    """FAULTS 11: the process we know ends at once, the one that serves is nobody's."""
    with DaemonUnderTest(models={"demo": {"fake": {"fork_at_start": True}}}) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF")
        until(lambda: not daemon.children_alive(), "the fork is gone")


def test_a_clients_connection_outlives_the_child() -> None:
    """FAULTS 52."""
    with running() as daemon, rawhttp.connect(daemon.port, DEADLINE_S) as sock:
        reader = rawhttp.Reader(sock)
        for generation in (1, 2):
            sock.sendall(rawhttp.request("POST", CHAT, chat_body("Hello")))
            reply = reader.response()
            assert (reply.status, reply.header("connection")) == (200, None)
            daemon.kill_child()
            daemon.wait_for(lambda one, past=generation: one["generation"] > past, "the next")


@pytest.mark.fault(34)
def test_descriptors_and_threads_are_back_to_their_number_after_thirty_deaths() -> None:
    with running() as daemon:
        process = psutil.Process(daemon.pid)

        def cycle() -> None:
            assert daemon.chat().status == 200
            daemon.kill_child()
            assert daemon.chat().status == 200

        cycle()
        cycle()
        baseline = process.num_fds() + 2  # idle connections come and go
        threads = process.num_threads() + 1  # of the executor for files, which grows on demand
        for _ in range(30):
            cycle()
        until(lambda: process.num_fds() <= baseline, f"at most {baseline} descriptors")
        until(lambda: process.num_threads() <= threads, f"at most {threads} threads")
        assert daemon.starts() == daemon.model()["generation"]
        assert [child.pid for child in process.children()] == [daemon.child_pid]  # and no zombie
