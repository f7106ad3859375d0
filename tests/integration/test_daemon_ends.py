"""FAULTS 16, 23, 26, 27, 29, 30: how the daemon ends, and what does not end it."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support import rawhttp
from tests.support.daemon import DEADLINE_S, GONE_S, DaemonUnderTest, running, until

SLOW = {"token_delay_s": 0.05}


def terminate(daemon: DaemonUnderTest) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)


def rest(reader: rawhttp.Reader) -> tuple[str, bool]:
    """What is left of a stream, and whether its last chunk came."""
    pieces = []
    while piece := reader.chunk():
        pieces.append(piece.decode())
    return "".join(pieces), piece == b""


# ---- drained, hurried


@pytest.mark.fault(26)
def test_a_stream_is_finished_before_the_end_and_newcomers_are_refused() -> None:
    with running() as daemon, daemon.streaming(max_tokens=8, fake=SLOW) as reader:
        assert daemon.process is not None
        terminate(daemon)
        until(lambda: daemon.status()["stopping"], "stopping")
        health = daemon.ask("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "draining")
        late = daemon.chat()
        assert late.status == 503
        assert late.header("retry-after")
        text, complete = rest(reader)
        assert complete
        assert text.endswith("data: [DONE]\n\n")
        assert daemon.process.wait(DEADLINE_S) == 0


@pytest.mark.fault(16, 26)
def test_a_stream_that_outlasts_the_drain_ends_honestly() -> None:
    with running(proxy={"drain_timeout_s": 0.3}) as daemon:
        with daemon.streaming(max_tokens=1000, fake=SLOW) as reader:
            begun = time.monotonic()
            terminate(daemon)
            text, complete = rest(reader)
        assert not complete
        assert "upstream_crashed" in text
        assert "[DONE]" not in text
        assert time.monotonic() - begun >= 0.3


@pytest.mark.fault(26)
@pytest.mark.parametrize("how", ["Ctrl-C", "stop --now"])
def test_a_second_wish_hurries(how: str) -> None:
    with running() as daemon, daemon.streaming(max_tokens=2000, fake=SLOW) as reader:
        assert daemon.process is not None
        terminate(daemon)
        until(lambda: daemon.status()["stopping"], "stopping")
        if how == "Ctrl-C":
            daemon.process.send_signal(signal.SIGINT)
        else:
            assert daemon.cli("stop", "--now").returncode == 0
        text, complete = rest(reader)
        assert not complete
        assert "[DONE]" not in text
        assert daemon.process.wait(5) == 0


@pytest.mark.fault(10, 16)
def test_a_child_that_ignores_sigterm_and_its_grandchild_are_ended_by_wishing_on() -> None:
    """FAULTS 16: each further signal is one more rung; unhurried the ladder takes 7 s."""
    with running(models={"demo": {"fake": {"ignore_sigterm": True, "spawn_grandchild": True}}}) as daemon:
        assert daemon.process is not None
        assert len(daemon.alive(needle="sleep")) == 1
        process = daemon.process

        def ended() -> bool:
            terminate(daemon)
            return process.poll() is not None

        until(ended, "the end", 5.0)
        assert process.returncode == 0


@pytest.mark.fault(16)
def test_a_stopped_child_is_stopped_for_good() -> None:
    """It sleeps by SIGSTOP: SIGTERM alone would wait for SIGCONT."""
    with running() as daemon:
        os.kill(daemon.child_pid, signal.SIGSTOP)
        stopped = daemon.cli("stop", "--timeout", "5")
        assert stopped.returncode == 0, stopped.stderr


# ---- the daemon is killed


@pytest.mark.fault(23)
def test_no_child_outlives_a_killed_daemon_and_the_next_start_is_clean() -> None:
    """FAULTS 23."""
    with running() as daemon:
        assert daemon.process is not None
        child = psutil.Process(daemon.child_pid)
        daemon.process.kill()
        daemon.process.wait()
        until(lambda: _gone(child), "the child is gone", GONE_S)
        assert daemon.cli("status").returncode == 3
        daemon.run()
        daemon.wait_ready()
        assert daemon.model()["generation"] == 1
        assert daemon.chat().status == 200


@pytest.mark.fault(23)
def test_a_daemon_killed_while_it_loads_leaves_nothing() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_s": 60}}}) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "LOADING", "LOADING")
        assert daemon.process is not None
        daemon.expected_exit = -signal.SIGKILL
        daemon.process.kill()
        until(lambda: not daemon.alive(), "all gone", GONE_S)


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---- what does not end it


@pytest.fixture(scope="module")
def unshaken() -> Iterator[DaemonUnderTest]:
    """For the tests that leave the daemon as it was, and its child too."""
    with running() as daemon:
        yield daemon


@pytest.fixture
def daemon(unshaken: DaemonUnderTest) -> DaemonUnderTest:
    unshaken.wait_ready()
    return unshaken


@pytest.mark.fault(29)
def test_sighup_changes_nothing(daemon: DaemonUnderTest) -> None:
    assert daemon.process is not None
    before = daemon.child_pid
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "SIGHUP" in daemon.log(), "the log mentions it")
    assert daemon.chat().status == 200
    assert daemon.child_pid == before


def test_a_moments_stop_of_the_daemon_restarts_nothing(daemon: DaemonUnderTest) -> None:
    """FAULTS 27."""
    before, pid = daemon.child_pid, daemon.pid
    answers: list[rawhttp.Response] = []
    os.kill(pid, signal.SIGSTOP)
    client = threading.Thread(target=lambda: answers.append(daemon.chat()))
    try:
        client.start()
        client.join(0.6)  # longer than a load, shorter than the patience of a test
        assert client.is_alive()
    finally:
        os.kill(pid, signal.SIGCONT)
    client.join(DEADLINE_S)
    assert answers[0].status == 200
    assert daemon.child_pid == before


@pytest.mark.fault(29)
def test_closed_standard_streams_are_survived() -> None:
    with DaemonUnderTest() as daemon:
        command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *daemon.command("run")]
        daemon.process = subprocess.Popen(command, env=daemon.environ)
        daemon.wait_ready()
        generation = daemon.kill_child()  # what it now says goes nowhere
        daemon.wait_next(generation)
        assert daemon.chat().status == 200


@pytest.mark.fault(29)
def test_a_reader_of_its_log_that_leaves_is_survived() -> None:
    with DaemonUnderTest() as daemon:
        daemon.run(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert daemon.process is not None
        assert daemon.process.stdout is not None
        daemon.wait_ready()
        daemon.process.stdout.close()
        generation = daemon.kill_child()
        daemon.wait_next(generation)
        assert daemon.chat().status == 200


@pytest.mark.fault(30)
def test_a_removed_log_folder_hurts_nobody_and_comes_back(daemon: DaemonUnderTest) -> None:
    """FAULTS 30."""
    logs = daemon.state_dir / "logs"
    until((logs / "llama-server.demo.log").exists, "a log")
    shutil.rmtree(logs)
    daemon.chat(fake={"log_line_bytes": 100})
    until((logs / "llama-server.demo.log").exists, "a log again")
    assert daemon.model()["generation"] == 1


def test_a_child_that_refuses_connections_is_replaced_and_the_request_answered() -> None:
    with running() as daemon:
        daemon.behave(refuse=True)
        until(lambda: _refuses(daemon.model()["port"]), "the child refuses")
        answers: list[rawhttp.Response] = []
        # Two at once: one may go over a connection that is open still.
        clients = [threading.Thread(target=lambda: answers.append(daemon.chat())) for _ in range(2)]
        for client in clients:
            client.start()
        daemon.wait_for(lambda one: one["state"] != "READY", "no longer READY")
        daemon.behave()
        one = daemon.wait_next(1)
        for client in clients:
            client.join(DEADLINE_S)
        assert [answer.status for answer in answers] == [200, 200]
        assert one["last_death"]["cause"] == "unreachable"
        assert "refuses connections" in one["last_death"]["detail"]


def _refuses(port: int) -> bool:
    try:
        rawhttp.connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.fault(31)
def test_a_flood_of_output_blocks_nobody_and_stays_bounded() -> None:
    """FAULTS 31."""
    with running() as daemon:
        before = daemon.status()["memory"]["daemon_rss_bytes"]
        for _ in range(3):
            reply = daemon.chat(fake={"log_flood": 30_000_000, "log_line_bytes": 5_000_000})
            assert reply.status == 200
        assert daemon.status()["memory"]["daemon_rss_bytes"] - before < 64 << 20
        assert daemon.model()["generation"] == 1
        daemon.stop()
        files = list((daemon.state_dir / "logs").glob("llama-server.demo.log*"))
        assert len(files) <= 6
        assert max(file.stat().st_size for file in files) < 11 << 20


@pytest.mark.fault(32)
@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit, which is Linux's")
def test_without_descriptors_it_refuses_or_cuts_and_goes_on_by_itself(daemon: DaemonUnderTest) -> None:
    """FAULTS 32: nothing is held against the child.

    (libuv, out of descriptors, accepts and closes: such a client sees the end of its connection.)
    """
    process = psutil.Process(daemon.pid)
    before = daemon.child_pid
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    limit = process.num_fds() + 4
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))
    idle = [rawhttp.connect(daemon.port) for _ in range(12)]
    try:
        until(lambda: process.num_fds() >= limit, "no descriptor is left")
        with pytest.raises((rawhttp.ClosedError, ConnectionError)):
            daemon.ask("GET", "/health")
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for sock in idle:
            sock.close()
    assert daemon.chat().status == 200
    assert daemon.child_pid == before
