"""Whatever is wrong, the command says it in one line with what to do, and ends with the contract's code."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest, running, until
from tests.support.otheruser import needs_root

ROOT = Path(__file__).parents[2]
ASKING = [
    ["status"],
    ["status", "--json"],
    ["top", "-n", "1"],
    ["requests"],
    ["cancel", "x"],
    ["restart"],
    ["reload"],
    ["load", "demo"],
    ["unload", "demo"],
    ["stop"],
]


def say(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def error(status: int, code: str) -> bytes:
    return say(
        status, json.dumps({"error": {"message": "no such thing", "code": code, "exit_code": 1}}).encode()
    )


@contextlib.contextmanager
def pretending(answer: bytes | None) -> Iterator[DaemonUnderTest]:
    """A configuration whose control socket is ours, with the daemon's lock held. None: no word is ever said."""
    with DaemonUnderTest() as paper:
        paper.run_dir.create()
        served, end = socket.socket(socket.AF_UNIX), threading.Event()
        served.bind(str(paper.run_dir.socket_path))
        served.listen(16)
        served.settimeout(0.05)
        held: list[socket.socket] = []

        def serve() -> None:
            while not end.is_set():
                with contextlib.suppress(TimeoutError):
                    asked, _ = served.accept()
                    held.append(asked)
                    if answer is not None:
                        asked.recv(65536)
                        asked.sendall(answer)
                        asked.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with paper.run_dir.locked():
                yield paper
        finally:
            end.set()
            thread.join()
            served.close()
            for one in held:
                one.close()
            shutil.rmtree(paper.run_dir.path)


def assert_one_line(done: "subprocess.CompletedProcess[str]", code: int, *says: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert done.stderr.startswith("llmsup: error: ")
    assert "Traceback" not in done.stderr
    for part in says:
        assert part in done.stderr
    assert done.stderr.rstrip().endswith(")"), "no remedy"


# ---- the daemon is not as it should be


@pytest.mark.parametrize("verb", ASKING, ids=" ".join)
def test_a_stale_socket_is_no_daemon(verb: list[str]) -> None:
    with DaemonUnderTest() as none:
        none.run_dir.create()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(none.run_dir.socket_path))
        assert_one_line(none.cli(*verb), 3, "not running", "llmsup start")


ANSWERS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "a page of another server": (say(404, b"Not Found"), ("another version", "llmsup stop && llmsup start")),
    "an older daemon": (error(404, "not_found"), ("does not know /", "llmsup stop && llmsup start")),
    "an older daemon that only looks": (error(405, "method_not_allowed"), ("another version",)),
    "nonsense": (say(200, b"hello"), ("makes no sense", "llmsup logs --daemon")),
    "a list": (say(200, b"[1]"), ("makes no sense",)),
    "no HTTP": (b"hello\r\n\r\n", ("makes no sense",)),
    "half an answer": (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", ("makes no sense",)),
    "nothing at all": (b"", ("does not answer", "try again")),
    "another document": (say(200, b"{}"), ("another version", "llmsup stop && llmsup start")),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("verb", [["status"], ["top", "-n", "1"], ["requests"], ["restart"]], ids=" ".join)
def test_an_answer_that_cannot_be_used_is_said_with_what_to_do(kind: str, verb: list[str]) -> None:
    answer, says = ANSWERS[kind]
    with pretending(answer) as paper:
        assert_one_line(paper.cli(*verb), 1, *says)


@pytest.mark.parametrize("verb", [["top", "-n", "1"], ["stop", "--timeout", "0.3"]], ids=" ".join)
def test_a_daemon_that_hangs_is_a_timeout(verb: list[str]) -> None:
    with pretending(None) as paper:
        assert_one_line(paper.cli(*verb), 5, f"(pid {os.getpid()})", "kill -9")


def test_a_daemon_that_is_starting_has_no_socket_yet() -> None:
    with DaemonUnderTest() as paper:
        paper.run_dir.create()
        with paper.run_dir.locked():
            assert_one_line(paper.cli("status"), 1, "does not answer", "try again in ten seconds")


@needs_root
def test_the_socket_of_another_user_is_a_matter_of_permission() -> None:
    with running() as daemon:
        daemon.folder.chmod(0o755)
        # All is imported before: the interpreter may lie where only root can read.
        program = (
            "import os, sys, supervisor.cli.status; from supervisor.cli.main import run; run(['--version']);"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(run(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, "--config", str(daemon.config), "status"]
        done = subprocess.run(
            command, env=daemon.environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert_one_line(done, 4, "ermission denied", "as the user that runs llmsup")


# ---- the output


@pytest.fixture(scope="module")
def answering() -> Iterator[DaemonUnderTest]:
    with running() as daemon:
        assert daemon.chat(fake={"log_flood": 200_000}).status == 200
        yield daemon


WRITING = [
    ["--help"],
    ["status"],
    ["status", "--json"],
    ["top", "-n", "3", "-d", "0.1"],
    ["top", "--json", "-d", "0.1"],
    ["models"],
    ["requests"],
    ["requests", "--json"],
    ["logs", "-n", "100000"],
    ["logs", "-f"],
    ["why"],
    ["why", "--json"],
    ["keys", "list"],
    ["config", "check"],
    ["config", "show"],
    ["config", "schema"],
    ["completion", "bash"],
    ["doctor"],
    ["chat", "Hello"],
    ["restart", "--help"],
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is Linux's")
@pytest.mark.parametrize("verb", [verb for verb in WRITING if verb != ["logs", "-f"]], ids=" ".join)
def test_a_full_disk_behind_the_output_is_said(answering: DaemonUnderTest, verb: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = answering.cli(*verb, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert_one_line(done, 1, "No space left on device", "make room there")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is Linux's")
@pytest.mark.parametrize(("verb", "code"), [(["restart", "nonesuch"], 1), (["nonesuch"], 2), (["status"], 0)])
def test_a_full_disk_behind_stderr_leaves_the_exit_code(
    answering: DaemonUnderTest, verb: list[str], code: int
) -> None:
    with Path("/dev/full").open("w") as full:
        done = answering.cli(*verb, stdout=subprocess.PIPE, stderr=full, capture_output=False)
    assert done.returncode == code


@pytest.mark.parametrize("verb", WRITING, ids=" ".join)
@pytest.mark.parametrize("reader", ["true", "head -n 1 >/dev/null"])
def test_a_reader_that_leaves_is_no_error(answering: DaemonUnderTest, verb: list[str], reader: str) -> None:
    command = " ".join(answering.command(*verb))
    done = subprocess.run(
        ["bash", "-c", f"{command} | {reader}; exit ${{PIPESTATUS[0]}}"],
        env=answering.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- Ctrl-C


@pytest.mark.parametrize("verb", [["status"], ["requests"], ["restart"], ["load", "demo"]], ids=" ".join)
def test_ctrl_c_while_waiting_is_130_in_one_line(verb: list[str]) -> None:
    with pretending(None) as paper:
        asking = paper.popen(*verb, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(_connected(asking.pid), "it has asked")
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=10)
        assert (asking.returncode, out) == (130, b"")
        assert err == b"llmsup: error: interrupted\n"


def test_ctrl_c_in_an_answer_is_130_in_one_line(answering: DaemonUnderTest) -> None:
    answering.behave(token_delay_s=0.2)
    try:
        asking = answering.popen("chat", "Hello", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asking.stdout is not None
        assert asking.stdout.read(1)
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=10)
        assert asking.returncode == 130
        assert err.strip() == b"llmsup: error: interrupted"
    finally:
        answering.behave()


def _connected(pid: int) -> Callable[[], bool]:
    """Whether it holds a socket: it waits for the answer then."""

    def looks() -> bool:
        with contextlib.suppress(OSError):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            return any(link.startswith("socket:") for link in links) and time.sleep(0.2) is None
        return False

    return looks


# ---- defects


def test_a_defect_is_one_line_too_and_in_full_on_request() -> None:
    with pretending(say(200, b"{}")) as paper:
        assert_one_line(paper.cli("status"), 1, "KeyError", "status.py:", "LLMSUP_TRACEBACK=1")
        full = paper.cli("status", env=paper.environ | {"LLMSUP_TRACEBACK": "1"})
        assert "Traceback" in full.stderr


def test_a_defect_of_the_daemon_itself_is_told_in_full_where_its_words_go() -> None:
    with DaemonUnderTest() as daemon:
        program = (
            "import sys; import supervisor.app; from supervisor.cli.main import run\n"
            "def broken(*_, **__): raise RuntimeError('a defect')\n"
            "supervisor.app.run = broken; sys.exit(run(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, "--config", str(daemon.config), "run"]
        done = subprocess.run(
            command, env=daemon.environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("llmsup: error: RuntimeError: a defect at ")
