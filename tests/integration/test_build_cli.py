"""`llmsup build` as a process: signals, two at once, what goes to stdout, what a terminal gets."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from supervisor.cli.build import Plain, duration
from tests.support import fake_build

REPOSITORY = Path(__file__).parents[2]
DRIVER = """\
from supervisor.cli.build import command
from supervisor.errors import LlmsupError
try:
    command()
except LlmsupError as error:
    raise SystemExit(f"llmsup: error: {error}")
"""


class Desk:
    def __init__(self, path):
        self.source = fake_build.llama_cpp(path / "llama.cpp")
        self.cache = path / "cache"
        self.gate = path / "gate"
        self.log = path / "log"
        self.env = {
            "PATH": str(fake_build.tools(path / "bin")),
            "LLMSUP_CACHE_DIR": str(self.cache),
            "FAKE_LOG": str(self.log),
            "HOME": str(path),
        }

    def start(self, *words, stderr=subprocess.PIPE, **env):
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, "--source", str(self.source), *words],
            cwd=REPOSITORY,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *words, **env):
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def steps(self):
        return [line for line in self.log.read_text().splitlines() if line.startswith("step")]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def until(stream, text):
    """Read lines until one contains `text`; the lines."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(lines)


def test_progress_goes_to_stderr_and_the_result_to_stdout(desk):
    status, out, err = desk.run()
    assert status == 0
    assert out.startswith("llama-server 9.9 (build 1, commit abc) (cpu) built in ")
    assert "llama_server: {binary: " in out
    assert [line for line in err.splitlines() if "%" in line][-1].startswith("100 % (3/3), ")
    status, again, err = desk.run()
    assert (status, err) == (0, "")
    assert " is built already: " in again


def test_print_path_and_json(desk):
    status, path, _ = desk.run("--print-path")
    assert status == 0
    assert subprocess.run([path.strip(), "--version"], capture_output=True, check=True).stderr.startswith(
        b"version: 9.9"
    )
    status, text, err = desk.run("--json")
    record = json.loads(text)
    assert (record["path"], record["backend"], record["fresh"], err) == (path.strip(), "cpu", False, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--print-path", "--json"], "exclude each other"),
        (["--backend", "abacus"], "Invalid value"),
        (["--jobs", "0"], "Invalid value"),
    ],
)
def test_usage_errors_are_2(desk, words, expected):
    status, _, err = desk.run(*words)
    assert status == 2
    assert expected in err


def test_an_error_is_one_line(desk):
    status, out, err = desk.run(FAKE_FAIL="cc1plus: No space left on device")
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("llmsup: error: compiling with ")
    assert "the disk is full" in last
    assert "build.log" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_one_line_and_130_and_nothing_is_left(desk, number):
    process = desk.start(FAKE_GATE=str(desk.gate))
    until(process.stderr, "33 %")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "llmsup: build interrupted; what is compiled is kept: run it again to continue\n"
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    assert desk.run()[0] == 0
    assert desk.steps() == ["step 1", "step 2", "step 3"]


def test_killed_outright_the_next_run_waits_for_the_compilers_and_completes(desk):
    process = desk.start(FAKE_GATE=str(desk.gate))
    until(process.stderr, "33 %")
    process.kill()
    process.communicate()
    second = desk.start(FAKE_GATE=str(desk.gate))
    until(second.stderr, "waiting for another build")  # the fake ninja still holds the lock
    desk.gate.touch()  # it goes on, finds nobody to talk to and ends
    out, err = second.communicate(timeout=10)
    assert second.returncode == 0
    assert "continuing the build that was interrupted" in err
    assert "built in" in out
    assert desk.steps() == ["step 1", "step 2", "step 3"]


def test_of_two_at_once_one_builds_and_both_have_it(desk):
    first = desk.start("--print-path", FAKE_GATE=str(desk.gate))
    until(first.stderr, "33 %")
    second = desk.start("--print-path", FAKE_GATE=str(desk.gate))
    until(second.stderr, "waiting for another build")
    desk.gate.touch()
    paths = {process.communicate(timeout=10)[0] for process in (first, second)}
    assert (first.returncode, second.returncode, len(paths)) == (0, 0, 1)
    assert desk.steps() == ["step 1", "step 2", "step 3"]


def test_a_terminal_gets_a_bar(desk):
    reader, writer = pty.openpty()
    process = desk.start(stderr=writer, TERM="xterm", COLUMNS="80")
    os.close(writer)
    drawn = b""
    try:
        while chunk := os.read(reader, 4096):
            drawn += chunk
    except OSError:  # Linux says EIO when the last writer is gone
        pass
    os.close(reader)
    assert process.communicate(timeout=10)[0].startswith("llama-server 9.9")
    assert b"3/3" in drawn
    assert b"configuring\r\n" in drawn


def test_plain_progress_says_little():
    lines, at = [], [0.0]

    class Out:
        def write(self, text):
            lines.append(text)

        def flush(self):
            pass

    plain = Plain(Out(), now=lambda: at[0])
    plain.say("compiling")
    for done in range(1, 201):
        at[0] = done / 10
        plain.step(done, 200)
    assert "".join(lines).count("%") == 20
    lines.clear()
    plain.say("slowly")
    for second in range(61):
        at[0] = 100.0 + second
        plain.step(1, 200)
    assert "".join(lines).count("%") == 5  # the clock of `say` stood at 20 s


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (271, "4 min 31 s")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
