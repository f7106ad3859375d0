"""FAULTS 7, 15, 18-20, 22, 25: beginnings, and what stands in their way."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, answer_of, free_port, running, until
from tests.support.gguf import MINIMAL, WHOLE, header, model

# ---- what it needs is not there


@pytest.mark.fault(7)
def test_a_missing_model_is_said_at_once_everywhere_and_mended_by_a_restart() -> None:
    with DaemonUnderTest() as daemon:
        path = daemon.model_path
        path.unlink()
        started = daemon.cli("start")
        assert started.returncode == 1
        assert str(path) in started.stderr
        assert "model_missing" in started.stderr
        assert "llmsup restart" in started.stderr
        health = daemon.health()
        assert health.status == 500
        body = health.json()
        assert body == {
            "status": "error",
            "error": f"demo is FAILED: model_missing: {path} does not exist",
            "model": "demo",
            "model_path": str(path),
            "context_size": 4096,
            "state": "FAILED",
        }
        refused = daemon.chat()
        assert refused.status == 503
        assert b"model_unavailable" in refused.body
        assert str(path).encode() in refused.body
        assert daemon.model()["next_try_s"] is None  # not retried by itself
        assert daemon.cli("restart").returncode == 1  # still the same
        path.write_bytes(MINIMAL)
        mended = daemon.cli("restart")
        assert (mended.returncode, mended.stderr) == (0, "")
        assert daemon.chat().status == 200


@pytest.mark.fault(7)
def test_what_can_never_start_fails_at_once_and_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "page").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "cut").write_bytes(WHOLE[:-7])
    (tmp_path / "later").write_bytes(header(version=4))
    models: dict[str, dict[str, object]] = {
        "folder": {"path": str(tmp_path / "folder")},
        "empty": {"path": str(tmp_path / "empty")},
        "page": {"path": str(tmp_path / "page")},
        "cut": {"path": str(tmp_path / "cut")},
        "later": {"path": str(tmp_path / "later")},
        "unknown-flag": {"args": ["--no-such-flag"]},
        "our-flag": {"args": ["--port", "1"]},
        "well": {},
    }
    expected = {
        "folder": ("model_unreadable", f"{tmp_path}/folder is a directory"),
        "empty": ("model_corrupt", f"{tmp_path}/empty is empty"),
        "page": ("model_corrupt", f"{tmp_path}/page is not a GGUF file"),
        "cut": ("model_corrupt", "the file is truncated by 7 bytes"),
        "later": ("model_unsupported", "is of version 4; versions 2 and 3 are supported"),
        "unknown-flag": ("bad_flag", "--no-such-flag"),
        "our-flag": ("cannot_start", "--port is set by llmsup itself"),
    }
    with DaemonUnderTest(models=models) as daemon:
        daemon.run()
        for name, (cause, words) in expected.items():
            one = daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED", name)
            assert (one["last_death"]["cause"], one["generation"], one["next_try_s"]) == (cause, 1, None)
            assert words in one["last_death"]["detail"]
            assert words.encode() in daemon.chat(model=name).body
        assert daemon.wait_ready("well")
        assert daemon.chat(model="well").status == 200


@pytest.mark.fault(35)
def test_a_model_that_cannot_fit_is_not_started_and_told_what_would(tmp_path: Path) -> None:
    (tmp_path / "large.gguf").write_bytes(model(context=2**20))
    large = {"path": str(tmp_path / "large.gguf"), "context_size": 2**20, "parallel": 1}
    with DaemonUnderTest(models={"demo": {}, "large": large}, memory={"limit_mb": 512}) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED", "large")
        assert one["last_death"]["cause"] == "does_not_fit"
        assert "KV cache 2048" in one["last_death"]["detail"]
        assert "memory.limit_mb is 512; context_size " in one["last_death"]["detail"]
        assert not (daemon.folder / "starts-large").exists()
        daemon.wait_ready("demo")


@pytest.mark.fault(35)
def test_a_model_that_cannot_fit_starts_on_its_safe_profile_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(model(context=2**20))
    numbers = "safe profile (context_size 4096 instead of 1048576)"
    large = {"path": str(path), "context_size": 2**20, "parallel": 1, "safe_profile": {"context_size": 4096}}
    with DaemonUnderTest(models={"large": large}, memory={"limit_mb": 512}) as daemon:
        daemon.run()
        one = daemon.wait_ready()
        assert (one["generation"], one["restarts"], one["last_death"]) == (1, 0, None)
        assert one["degraded"].startswith(f"{numbers}, because as configured it does not fit: ")
        assert "KV cache 2048" in one["degraded"]
        assert f"degraded: {numbers}" in daemon.cli("status").stdout
        (child,) = [one for one in daemon.alive(needle=str(path)) if one.pid == daemon.child_pid]
        assert "4096" in child.cmdline()
        assert daemon.chat().status == 200


@pytest.mark.fault(22)
@pytest.mark.parametrize("kind", ["missing", "not executable"])
def test_a_binary_that_cannot_be_run_fails_with_what_to_do(kind: str, tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    if kind != "missing":
        binary.write_text("hello")
        binary.chmod(0o644)
    with DaemonUnderTest(binary=binary) as daemon:
        started = daemon.cli("start")
        assert started.returncode == 1
        assert str(binary) in started.stderr
        assert ("chmod +x" if kind == "not executable" else "llmsup build") in started.stderr
        assert daemon.model()["state"] == "FAILED"


# ---- loading


def test_requests_while_it_loads_wait_and_are_answered() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_s": 0.8}}}) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "LOADING", "LOADING")
        health = daemon.ask("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "starting")
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: daemon.chat(), range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        assert max(int(answer.header("x-llmsup-queue-ms") or 0) for answer in answers) > 100


@pytest.mark.fault(15)
def test_a_load_without_progress_is_stalled_and_a_slow_one_is_left_alone() -> None:
    """FAULTS 15."""
    silent = {"startup_stall_s": 0.7, "fake": {"load_s": 60, "load_silent": True}}
    slow = {"startup_stall_s": 0.7, "fake": {"load_s": 2}}
    with DaemonUnderTest(models={"silent": silent, "slow": slow}) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF", "silent")
        assert one["last_death"]["cause"] == "stalled"
        assert "no sign of progress for 0.7 s" in one["last_death"]["detail"]
        assert daemon.wait_ready("slow")["generation"] == 1


# ---- ports


@pytest.mark.fault(18)
def test_a_configured_port_that_is_taken_gives_the_next() -> None:
    with socket.socket() as squatter:
        port = free_port()
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with running(models={"demo": {"port": port}}) as daemon:
            one = daemon.model()
            assert port < one["port"] < port + 64
            assert (one["restarts"], one["last_death"]) == (0, None)
            assert daemon.chat().status == 200


@pytest.mark.fault(19)
def test_a_taken_port_of_the_proxy_ends_it_with_7_naming_who_has_it() -> None:
    with socket.socket() as squatter, DaemonUnderTest() as daemon:
        squatter.bind(("127.0.0.1", daemon.port))
        squatter.listen()
        for verb in ("run", "start"):
            done = daemon.cli(verb)
            assert done.returncode == 7
            assert f"port {daemon.port} on 127.0.0.1 is taken by pid {os.getpid()} (" in done.stderr
            assert "listen:" in done.stderr
            assert done.stderr.count("\n") == 1
        assert not daemon.alive()


# ---- one and only one


@pytest.mark.fault(20)
def test_a_second_start_is_a_conflict_and_changes_nothing() -> None:
    with running() as daemon:
        for verb in ("start", "run"):
            again = daemon.cli(verb)
            assert again.returncode == 7
            assert f"llmsup is already running (pid {daemon.pid})" in again.stderr
        assert daemon.model()["generation"] == 1
        assert daemon.starts() == 1


@pytest.mark.fault(20)
@pytest.mark.slow
def test_twenty_starts_at_once_make_exactly_one_daemon() -> None:
    with DaemonUnderTest() as daemon:
        with ThreadPoolExecutor(20) as shells:
            ends = list(shells.map(lambda _: daemon.cli("start"), range(20)))
        codes = sorted(end.returncode for end in ends)
        assert codes == [0] + [7] * 19, [end.stderr for end in ends]
        refusals = {end.stderr.split(" (pid")[0] for end in ends if end.returncode}
        assert refusals <= {"llmsup: error: llmsup is already running"}, refusals
        assert len(daemon.alive(needle="supervisor")) == 1
        assert len(daemon.children_alive()) == 1


@pytest.mark.fault(25)
def test_a_lock_file_with_a_strangers_pid_stops_nobody() -> None:
    """FAULTS 25: the lock is the kernel's; the number in the file is for people."""
    with DaemonUnderTest() as daemon:
        daemon.run_dir.create()
        daemon.run_dir.lock_path.write_text("1\n")
        assert daemon.cli("status").returncode == 3
        assert daemon.cli("stop").returncode == 3
        daemon.run()
        daemon.wait_ready()
        assert daemon.run_dir.pid() == daemon.pid


# ---- commands that meet


@pytest.mark.fault(21)
def test_stop_while_loading_ends_it_soon() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_s": 60}}}) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "LOADING", "LOADING")
        stopped = daemon.cli("stop", "--timeout", "5")
        assert (stopped.returncode, stopped.stdout) == (0, "llmsup has stopped\n")
        assert not daemon.alive()


def test_a_start_that_waits_is_told_when_another_shell_stops_it() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_s": 60}}}) as daemon:
        with ThreadPoolExecutor(1) as shell:
            starting = shell.submit(daemon.cli, "start")
            daemon.wait_for(lambda one: one["state"] == "LOADING", "LOADING")
            assert daemon.cli("stop").returncode == 0
            done = starting.result(DEADLINE_S)
        assert done.returncode == 1
        assert "stopped" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.fault(21)
def test_stop_beats_any_number_of_restarts() -> None:
    """FAULTS 21."""
    with running() as daemon:

        def restart(_: int) -> None:
            try:
                ControlClient(daemon.run_dir).post("/restart")
            except LlmsupError:
                pass  # it goes, or is gone

        with ThreadPoolExecutor(10) as shells:
            asked = shells.map(restart, range(40))
            ControlClient(daemon.run_dir).post("/stop")
            list(asked)
        assert daemon.process is not None
        daemon.process.wait(DEADLINE_S)


def test_a_restart_under_load_loses_no_request() -> None:
    with running() as daemon:
        stop, answers = threading.Event(), []

        def client() -> None:
            while not stop.is_set():
                answers.append(daemon.chat(stream=len(answers) % 2 == 0, fake={"token_delay_s": 0.005}))

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients:
            one.start()
        for generation in (2, 3):
            seen = len(answers)
            until(lambda seen=seen: len(answers) > seen + 8, "some answers")
            done = daemon.cli("restart")
            assert (done.returncode, done.stderr) == (0, "")
            assert f"generation {generation}" in done.stdout
        stop.set()
        for one in clients:
            one.join(DEADLINE_S)
        assert {(answer.status, answer.complete) for answer in answers} == {(200, True)}
        assert daemon.status()["requests"]["failed"] == 0
        one = daemon.model()
        assert (one["last_death"]["cause"], one["generation"]) == ("restarted", 3)
        assert one["restarts"] == 0, "asked for by somebody, which does not count"


def test_a_daemon_that_was_ended_is_started_anew_as_if_nothing_had_been() -> None:
    with DaemonUnderTest() as daemon:
        for _ in range(2):
            begun = time.monotonic()
            started = daemon.cli("start")
            assert started.returncode == 0, started.stderr
            assert f"http://127.0.0.1:{daemon.port}" in started.stdout
            assert answer_of(daemon.chat())
            assert daemon.status()["uptime_s"] < time.monotonic() - begun
            assert daemon.cli("stop").returncode == 0
            assert not daemon.alive()
            assert not daemon.run_dir.socket_path.exists()
