"""The faults around a child, on the real llama-server: what it leaves, who stops it, what is missing."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from tests.support import demo_model as demo_model_maker
from tests.support import rawhttp
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, answer_of, free_port, running, until
from tests.support.scarcity import few_processes, fill, small_disk
from tests.support.wrapped import (
    AWAITS_GO,
    ESCAPED,
    FORKS_AWAY,
    GRANDCHILDREN,
    MEMBER,
    STANDS_STILL,
    told_port,
    wrap,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never says that it is done."""
    return demo_model_maker.make(tmp_path_factory.mktemp("endless") / "endless.gguf", "--endless")


@pytest.fixture
def fresh(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        yield daemon


# ---- it dies


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "killed"),
        (signal.SIGSEGV, "segfault"),
        (signal.SIGABRT, "aborted"),
        (signal.SIGTERM, "exited"),
    ],
)
def test_every_death_while_idle_is_named_and_mended(
    fresh: DaemonUnderTest, number: signal.Signals, cause: str
) -> None:
    one = fresh.wait_next(fresh.kill_child(number))
    assert one["last_death"]["cause"] == cause
    assert answer_of(fresh.chat(max_tokens=8))


@pytest.mark.fault(6)
def test_to_have_been_ready_for_a_moment_is_no_merit(fresh: DaemonUnderTest) -> None:
    for least in (1.0, 2.0):
        fresh.wait_ready()
        fresh.kill_child(signal.SIGSEGV)
        one = fresh.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF")
        assert least - 0.5 < one["next_try_s"] <= least * 1.25


@pytest.mark.fault(2, 4)
@pytest.mark.slow
def test_killed_once_a_second_under_load_no_request_fails(fresh: DaemonUnderTest) -> None:
    answers: list[rawhttp.Response] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(fresh.chat("Tell me a story", max_tokens=60, temperature=0, timeout_s=30))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    kills = 0
    end = time.monotonic() + 8
    while time.monotonic() < end:
        time.sleep(1.0)
        with_pid = fresh.model()
        if with_pid["pid"] is not None:
            os.kill(with_pid["pid"], signal.SIGKILL)
            kills += 1
    stop.set()
    for one in clients:
        one.join(60)
    assert kills >= 6
    assert len(answers) > kills
    assert {answer.status for answer in answers} == {200}
    assert len({answer_of(answer) for answer in answers}) == 1  # whole, whichever generation made it
    assert fresh.status()["requests"]["failed"] == 0
    fresh.wait_ready()


@pytest.mark.fault(10, 23)
def test_whatever_it_started_is_gone_before_the_next_generation_and_the_next_daemon(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    binary = wrap(llama_server_binary, tmp_path / "llama-server", GRANDCHILDREN)
    with running(binary=binary, model_path=demo_model) as daemon:
        started = [*daemon.alive(needle=MEMBER), *daemon.alive(needle=ESCAPED)]
        assert len(started) == 2
        daemon.wait_next(daemon.kill_child())
        assert not [one for one in daemon.alive() if one in started]
        started = [*daemon.alive(needle=MEMBER), *daemon.alive(needle=ESCAPED)]
        assert len(started) == 2
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        daemon.run()
        daemon.wait_ready()
        assert not [one for one in daemon.alive() if one in started]


@pytest.mark.fault(11)
def test_one_that_forks_away_from_its_parent_is_ended_and_counted(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    binary = wrap(llama_server_binary, tmp_path / "llama-server", FORKS_AWAY)
    with DaemonUnderTest(binary=binary, model_path=demo_model) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF")
        assert one["last_death"]["exit_code"] == 0
        until(lambda: not daemon.children_alive(), "the fork is gone")


# ---- it starts, and does not


@pytest.mark.fault(15)
def test_a_start_that_stands_still_is_stalled(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    binary = wrap(llama_server_binary, tmp_path / "llama-server", STANDS_STILL)
    models = {"demo": {"startup_stall_s": 1}}
    with DaemonUnderTest(binary=binary, model_path=demo_model, models=models) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "BACKOFF", "BACKOFF")
        assert one["last_death"]["cause"] == "stalled"


@pytest.mark.fault(18)
def test_a_port_stolen_between_choice_and_bind_gives_the_next_and_is_no_crash(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    port = free_port()
    binary = wrap(llama_server_binary, tmp_path / "llama-server", AWAITS_GO)
    models = {"demo": {"port": port}}
    with (
        DaemonUnderTest(binary=binary, model_path=demo_model, models=models) as daemon,
        socket.socket() as thief,
    ):
        daemon.run()
        assert until(lambda: told_port(binary), "it is told a port") == port
        thief.bind(("127.0.0.1", port))
        thief.listen()
        Path(f"{binary}.go").touch()
        one = daemon.wait_ready()
        assert port < one["port"] < port + 64
        assert (one["generation"], one["restarts"]) == (2, 0)
        assert one["last_death"]["cause"] == "port_in_use"
        assert "BACKOFF" not in daemon.log()  # the next try came at once
        assert answer_of(daemon.chat(max_tokens=8))


@pytest.mark.fault(22)
def test_half_a_binary_fails_with_what_to_do(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    half = tmp_path / "llama-server"
    whole = llama_server_binary.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    half.chmod(0o755)
    with DaemonUnderTest(binary=half, model_path=demo_model) as daemon:
        started = daemon.cli("start")
        assert started.returncode == 1
        assert "llmsup build" in started.stderr
        assert daemon.model()["state"] == "FAILED"


@pytest.mark.fault(35)
def test_a_context_that_cannot_fit_is_refused_before_anything_is_started(
    llama_server_binary: Path, demo_model: Path
) -> None:
    models = {"demo": {"context_size": 2**24, "parallel": 1}}
    memory = {"limit_mb": 1024}
    with DaemonUnderTest(
        binary=llama_server_binary, model_path=demo_model, models=models, memory=memory
    ) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        assert one["last_death"]["cause"] == "does_not_fit"
        assert "memory.limit_mb is 1024; context_size " in one["last_death"]["detail"]
        assert not daemon.children_alive()


# ---- it is stopped


@pytest.mark.fault(16)
def test_a_stopped_child_is_stopped_for_good(fresh: DaemonUnderTest) -> None:
    os.kill(fresh.child_pid, signal.SIGSTOP)
    stopped = fresh.cli("stop", "--timeout", "10")
    assert stopped.returncode == 0, stopped.stderr
    assert "ended by llmsup with exit code 0" in fresh.log()  # it was let go on, and went by itself


@pytest.mark.fault(16, 26)
def test_a_stream_that_outlasts_the_drain_ends_honestly_and_soon(
    llama_server_binary: Path, endless: Path
) -> None:
    models = {"demo": {"context_size": 32768, "parallel": 1}}
    proxy = {"drain_timeout_s": 0.5}
    with running(binary=llama_server_binary, model_path=endless, models=models, proxy=proxy) as daemon:
        assert daemon.process is not None
        with daemon.streaming("Hello", max_tokens=30_000) as reader:
            begun = time.monotonic()
            daemon.process.send_signal(signal.SIGTERM)
            text = b""
            while piece := reader.chunk():
                text += piece
        assert piece is None  # cut, not ended
        assert b"[DONE]" not in text
        assert b'"source": "llmsup"' in text.splitlines()[-2]  # the last event says who cut it
        assert daemon.process.wait(DEADLINE_S) == 0
        assert 0.5 <= time.monotonic() - begun < 8


@pytest.mark.fault(26)
def test_a_stream_that_is_soon_done_is_finished_before_the_end(fresh: DaemonUnderTest) -> None:
    assert fresh.process is not None
    with fresh.streaming("Tell me a story", max_tokens=300, ignore_eos=True) as reader:
        fresh.process.send_signal(signal.SIGTERM)
        text = b""
        while piece := reader.chunk():
            text += piece
    assert text.endswith(b"data: [DONE]\n\n")
    assert fresh.process.wait(DEADLINE_S) == 0


@pytest.mark.fault(21)
def test_thirty_restarts_at_once_are_one_tree_and_a_stop_beats_them(fresh: DaemonUnderTest) -> None:
    control = ControlClient(fresh.run_dir)
    refused: list[LlmsupError] = []

    def restart() -> None:
        try:
            control.post("/restart")
        except LlmsupError as error:
            refused.append(error)

    def at_once(number: int) -> list[threading.Thread]:
        shells = [threading.Thread(target=restart) for _ in range(number)]
        for shell in shells:
            shell.start()
        return shells

    for shell in at_once(30):
        shell.join()
    assert not refused
    # The next one is warmed beside the one that serves, which goes then.
    until(lambda: fresh.wait_ready()["generation"] > 1, "another generation serves")
    until(lambda: len(fresh.children_alive()) == 1, "the one before has gone")
    shells = at_once(30)
    control.post("/stop")
    for shell in shells:
        shell.join()
    assert fresh.process is not None
    assert fresh.process.wait(DEADLINE_S) == 0


# ---- the daemon


@pytest.mark.fault(24)
@pytest.mark.parametrize("defect", ["dies-between-fork-and-record", "dies-while-it-records"])
def test_a_child_of_a_daemon_killed_before_it_was_written_down_is_found_by_its_marks(
    llama_server_binary: Path, demo_model: Path, defect: str
) -> None:
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as daemon:
        daemon.defect = defect
        daemon.run()
        assert daemon.process is not None
        assert daemon.process.wait(DEADLINE_S) == -signal.SIGKILL
        (orphan,) = until(daemon.children_alive, "the child of the dead daemon")
        daemon.defect = ""
        daemon.run()
        one = daemon.wait_ready()
        assert [child.pid for child in daemon.children_alive()] == [one["pid"]] != [orphan.pid]
        assert answer_of(daemon.chat(max_tokens=8))


@pytest.mark.fault(29)
def test_a_hangup_and_closed_outputs_end_nothing(llama_server_binary: Path, demo_model: Path) -> None:
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as daemon:
        command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *daemon.command("run")]
        daemon.process = subprocess.Popen(command, env=daemon.environ)
        before = daemon.wait_ready()
        daemon.process.send_signal(signal.SIGHUP)
        assert answer_of(daemon.chat(max_tokens=8))
        assert daemon.child_pid == before["pid"]
        daemon.wait_next(daemon.kill_child())


# ---- the machine


@pytest.mark.fault(30)
def test_a_full_disk_costs_no_child_and_is_caught_up_with(
    llama_server_binary: Path, demo_model: Path
) -> None:
    with (
        DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as daemon,
        small_disk(daemon.state_dir) as disk,
    ):
        daemon.run()
        daemon.wait_ready()
        ballast = fill(disk)
        daemon.wait_next(daemon.kill_child())
        assert answer_of(daemon.chat(max_tokens=8))
        until(lambda: daemon.status()["deaths"]["error"], "deaths are flagged")
        assert answer_of(daemon.chat(max_tokens=8))
        ballast.unlink()
        until(lambda: daemon.status()["deaths"]["error"] is None, "deaths are caught up with")
        assert daemon.model()["generation"] == 2
        daemon.stop()


@pytest.mark.fault(32)
def test_without_room_for_a_process_it_waits_and_comes_back(fresh: DaemonUnderTest) -> None:
    with few_processes(fresh) as limit:
        limit.write_text("1")
        fresh.kill_child()
        fresh.wait_for(
            lambda one: one["last_death"] and one["last_death"]["cause"] == "spawn_failed",
            "no process can be made",
        )
        assert fresh.ask("GET", "/health").status == 503
        limit.write_text("max")
        fresh.wait_ready()
        assert answer_of(fresh.chat(max_tokens=8))
