"""`llmsup top` on a terminal of our own: what stands there, what keys do, and that the terminal is given back."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.daemon import DaemonUnderTest, running, until
from tests.support.terminal import Terminal

SIZES = [(80, 24), (132, 43)]
IDLE_S = 5.0
MOST_CPU = 0.02  # of a core


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonUnderTest]:
    with running(models={"demo": {"fake": {"token_delay_s": 0.02}}, "other": {}}) as one:
        yield one


def top(daemon: DaemonUnderTest, *arguments: str, **size: Any) -> Terminal:
    return Terminal(daemon.command("top", *arguments), daemon.environ, **size)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_all_there_is_to_see_and_q_gives_the_terminal_back(
    daemon: DaemonUnderTest, columns: int, lines: int
) -> None:
    with top(daemon, "-d", "0.2", columns=columns, lines=lines) as terminal:
        terminal.until_shown("demo", "other", "READY", "LOADING -> READY", "no request is in flight")
        assert terminal.alternate
        assert not terminal.cursor_shown
        with daemon.streaming(max_tokens=200):
            shown = terminal.until_shown("1/4", "answering", "ip:127.0.0.1", "1 in flight, queue: 0")
            assert f"http://127.0.0.1:{daemon.port}" in shown
            assert "[" in next(line for line in shown.splitlines() if line.startswith("memory:"))
            terminal.until(lambda: _speed(terminal) > 5, "tokens a second")
        terminal.until_shown("no request is in flight")
        assert len(terminal.screen.splitlines()) == lines
        terminal.press("q")
        assert terminal.until_ended() == 0
        assert terminal.restored


def _speed(terminal: Terminal) -> float:
    head = terminal.screen.splitlines()[1]
    return float(head.split()[-2]) if head.endswith("tokens/s") else 0.0


def test_ctrl_c_is_a_way_out(daemon: DaemonUnderTest) -> None:
    with top(daemon) as terminal:
        terminal.until_shown("demo")
        terminal.press("\x03")
        assert terminal.until_ended() == 0
        assert terminal.restored
        assert "Traceback" not in terminal.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_properly(daemon: DaemonUnderTest, number: int) -> None:
    with top(daemon) as terminal:
        terminal.until_shown("demo")
        terminal.process.send_signal(number)
        assert terminal.until_ended() == 128 + number
        assert terminal.restored
        assert "Traceback" not in terminal.said


def test_ctrl_z_lends_the_terminal_to_the_shell(daemon: DaemonUnderTest) -> None:
    words = " ".join(daemon.command("top", "-d", "0.2"))
    shell = ["bash", "-m", "-c", f"{words}; echo stopped-$?; read line; fg >/dev/null; echo left-$?"]
    with Terminal(shell, daemon.environ) as terminal:
        terminal.until_shown("demo")
        terminal.press("\x1a")
        terminal.until(lambda: "stopped-148" in terminal.said, "stopped")
        assert terminal.restored
        terminal.press("\n")
        terminal.until(lambda: terminal.alternate, "continued")
        terminal.until_shown("demo", "READY")
        terminal.press("q")
        terminal.until(lambda: "left-0" in terminal.said, "the end")
        assert terminal.restored


def test_while_llmsup_is_away_it_says_so_and_goes_on_with_the_next() -> None:
    with DaemonUnderTest() as daemon:
        daemon.run()
        daemon.wait_ready()
        with top(daemon, "-d", "0.2") as terminal:
            terminal.until_shown("demo", "READY")
            daemon.stop()
            terminal.until_shown("llmsup is not running")
            daemon.run()
            daemon.wait_ready()
            terminal.until(lambda: "not running" not in terminal.screen, "seen again")
            assert f"up {daemon.status()['uptime_s']:.0f}"[:4] in terminal.screen
            assert daemon.process is not None
            daemon.process.kill()
            daemon.process.wait()
            daemon.expected_exit = -signal.SIGKILL
            terminal.until_shown("llmsup is not running")
            terminal.press("q")
            assert terminal.until_ended() == 0
            assert terminal.restored


def test_a_frozen_llmsup_is_named_and_q_still_works() -> None:
    with DaemonUnderTest() as daemon:
        daemon.run()
        daemon.wait_ready()
        with top(daemon, "-d", "0.2") as terminal:
            terminal.until_shown("demo", "READY")
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                terminal.until_shown("did not answer within 2 s")
                terminal.press("q")
                assert terminal.until_ended() == 0
                assert terminal.restored
            finally:
                daemon.process.send_signal(signal.SIGCONT)


def test_another_size_is_taken_up_and_too_small_a_one_is_said(daemon: DaemonUnderTest) -> None:
    with top(daemon, "-d", "3600") as terminal:
        terminal.until_shown("demo")
        terminal.resize(60, 20)
        terminal.until_shown("The terminal has 60 x 20.", "top needs 80 x 24")
        assert "READY" not in terminal.screen
        terminal.resize(100, 30)
        terminal.until_shown("demo", "READY")
        assert len(terminal.screen.splitlines()) == 30
        terminal.press("q")
        assert terminal.until_ended() == 0


def test_p_stops_the_clock_and_starts_it_again(daemon: DaemonUnderTest) -> None:
    with top(daemon, "-d", "0.1") as terminal:
        terminal.until_shown("demo")
        terminal.press("p")
        terminal.until_shown("PAUSED")
        before, end = terminal.screen, time.monotonic() + 1.5
        while time.monotonic() < end:
            terminal.read()
        assert terminal.screen == before
        terminal.press("p")
        terminal.until(lambda: terminal.screen.splitlines()[0] != before.splitlines()[0], "time goes on")
        terminal.press("q")
        assert terminal.until_ended() == 0


def test_the_marked_request_is_cancelled_when_y_says_so(daemon: DaemonUnderTest) -> None:
    with top(daemon, "-d", "0.2") as terminal, daemon.streaming(max_tokens=5000):
        terminal.until_shown("answering")
        terminal.press("c")
        terminal.until_shown("mark a request first")
        for keys in ("j", "\x1b[B", "j"):  # demo, other, the request
            terminal.press(keys)
            terminal.read(0.2)
        request = daemon_request(daemon)
        terminal.until_shown(f"> {request[:10]}")
        terminal.press("c")
        terminal.until_shown(f"cancel {request}? y: yes")
        terminal.press("n")
        terminal.until(lambda: "cancel " + request not in terminal.screen, "not cancelled")
        assert daemon_request(daemon) == request
        terminal.press("c")
        terminal.until_shown(f"cancel {request}?")
        terminal.press("y")
        terminal.until_shown(f"{request} is cancelled", "no request is in flight")
        terminal.press("q")
        assert terminal.until_ended() == 0


def daemon_request(daemon: DaemonUnderTest) -> str:
    (row,) = json.loads(daemon.cli("requests", "--json").stdout)
    return str(row["id"])


def test_who_is_not_there_is_an_error_on_an_ordinary_screen() -> None:
    with DaemonUnderTest() as daemon, top(daemon) as terminal:
        assert terminal.until_ended() == 3
        assert "llmsup: error:" in terminal.said
        assert "\x1b[?1049h" not in terminal.said


def test_no_color_and_a_dumb_terminal_get_pages(daemon: DaemonUnderTest) -> None:
    environ = daemon.environ | {"NO_COLOR": "1"}
    command = ["env", "NO_COLOR=1", *daemon.command("top", "-n", "1")]
    with Terminal(command, environ) as terminal:
        assert terminal.until_ended() == 0
        assert "\x1b" not in terminal.said
        assert "demo" in terminal.said


def test_a_pipe_gets_pages_and_json_gets_lines(daemon: DaemonUnderTest) -> None:
    done = daemon.cli("top", "-n", "2", "-d", "0.1")
    assert done.returncode == 0
    assert done.stdout.count("EVENTS, newest first") == 2
    assert "\x1b" not in done.stdout
    lines = daemon.cli("top", "-n", "3", "-d", "0.1", "--json").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [set(one["tokens_per_s"]) for one in told] == [{"demo", "other"}] * 3
    assert told[0]["tokens_per_s"]["demo"] is None
    assert told[1]["tokens_per_s"]["demo"] == 0.0
    assert {one["name"] for one in told[0]["status"]["models"]} == {"demo", "other"}


def test_a_reader_that_leaves_ends_it_without_a_word(daemon: DaemonUnderTest) -> None:
    command = " ".join(daemon.command("top", "-d", "0.1", "--json"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 2; echo ${{PIPESTATUS[0]}} >&2"],
        env=daemon.environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stderr.split() == ["0"]
    assert done.stdout.count("\n") == 2


def test_at_idle_it_costs_next_to_nothing(daemon: DaemonUnderTest) -> None:
    def used(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system

    def over(pids: list[int], terminal: Terminal | None) -> list[float]:
        before, end = [used(pid) for pid in pids], time.monotonic() + IDLE_S
        while (left := end - time.monotonic()) > 0:
            if terminal is None:
                time.sleep(left)
            else:
                terminal.read(min(left, 0.5))
        return [(used(pid) - was) / IDLE_S for pid, was in zip(pids, before, strict=True)]

    until(lambda: not daemon.status()["requests"]["in_flight"], "nothing in flight")
    (alone,) = over([daemon.pid], None)
    with top(daemon) as terminal:
        terminal.until_shown("demo", "READY")
        watching, watched = over([terminal.process.pid, daemon.pid], terminal)
        terminal.press("q")
        assert terminal.until_ended() == 0
    assert watching < MOST_CPU
    assert watched - alone < MOST_CPU
