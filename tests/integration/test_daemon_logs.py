"""Logs that hurt nobody: floods, full disks, missing folders, planted links, secrets. (FAULTS 29-31, 54, 55)"""

import json
import os
import re
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import DEADLINE_S, DaemonUnderTest, running, until
from tests.support.fake_llama_server import write_wrapper

FILE_MAX = 11 << 20
GENERAL, ERRORS, METRICS = "llmsup.log", "llmsup-errors.log", "llmsup-metrics.log"


def folder_of(daemon: DaemonUnderTest) -> Path:
    return daemon.state_dir / "logs"


def child_log(daemon: DaemonUnderTest) -> Path:
    return folder_of(daemon) / "llama-server.demo.log"


# ---- too much


@pytest.mark.fault(31)
def test_a_flood_blocks_nobody_takes_no_memory_and_says_what_is_missing() -> None:
    """FAULTS 31: far above 1 GB a minute, for 3 s."""
    with running() as daemon:
        before = daemon.status()["memory"]["daemon_rss_bytes"]
        slowest, end = 0.0, time.monotonic() + 3
        while time.monotonic() < end:
            begun = time.monotonic()
            assert daemon.chat(fake={"log_flood": 20_000_000}).status == 200
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 5  # a child whose pipe is full would wait for ever
        assert daemon.status()["memory"]["daemon_rss_bytes"] - before < 64 << 20
        written = until(lambda: daemon.model()["log"]["dropped_lines"] and daemon.model()["log"], "drops")
        assert written["error"] is None
        assert written["path"] == str(child_log(daemon))
        assert re.search(r"^    log: \d+ lines dropped$", daemon.cli("status").stdout, re.MULTILINE)
        daemon.stop()
        files = list(folder_of(daemon).glob("llama-server.demo.log*"))
        assert len(files) <= 6
        assert max(file.stat().st_size for file in files) < FILE_MAX
        assert any("[llmsup] dropped " in file.read_text(errors="replace") for file in files)


# ---- places that are gone, full or planted


@pytest.mark.fault(30)
def test_a_folder_that_becomes_a_file_is_flagged_and_recovered_from() -> None:
    """FAULTS 30. (Root may write where it may not, so the folder is replaced instead of made read-only.)"""
    with running() as daemon:
        folder = folder_of(daemon)
        until(child_log(daemon).exists, "a log")
        shutil.rmtree(folder)
        folder.touch()
        daemon.chat(fake={"log_line_bytes": 100})
        daemon.wait_for(lambda one: str(folder) in (one["log"]["error"] or ""), "flagged")
        daemon.wait_next(daemon.kill_child())  # the daemon has something to say as well
        until(lambda: daemon.status()["logs"]["error"], "the daemon's own flagged")
        said = daemon.cli("status").stdout
        assert f"llmsup's own log: {folder}" in said
        assert f"\n    log: {folder}" in said
        assert daemon.chat().status == 200
        folder.unlink()
        until(lambda: daemon.status()["logs"]["error"] is None, "recovered by itself")
        daemon.wait_for(lambda one: one["log"]["error"] is None, "recovered by itself")
        assert "[llmsup] dropped " in (folder / GENERAL).read_text()


@pytest.mark.fault(30)
@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit, which is Linux's")
def test_a_limit_on_file_sizes_is_like_a_full_disk() -> None:
    with running() as daemon:
        process = psutil.Process(daemon.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (10, psutil.RLIM_INFINITY))
        daemon.chat(fake={"log_line_bytes": 1000})
        daemon.wait_for(lambda one: one["log"]["error"], "flagged")
        assert daemon.chat().status == 200
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        daemon.wait_for(lambda one: one["log"]["error"] is None, "recovered by itself")
        assert daemon.model()["generation"] == 1


def test_no_planted_link_is_followed() -> None:
    """FAULTS 54."""
    with DaemonUnderTest() as daemon:
        victim = daemon.folder / "victim"
        victim.write_text("precious")
        names = ["llama-server.demo.log", GENERAL, ERRORS, METRICS, "llmsup-stderr.log"]
        folder_of(daemon).mkdir(parents=True)
        for name in names:
            (folder_of(daemon) / name).symlink_to(victim)
        started = daemon.cli("start")
        assert started.returncode == 0, started.stderr
        daemon.wait_for(lambda one: one["log"]["error"], "flagged")
        assert daemon.status()["logs"]["error"]
        assert victim.read_text() == "precious"
        assert daemon.cli("stop").returncode == 0
        assert victim.read_text() == "precious"


# ---- the daemon's own files


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("verb", ["run", "start"])
def test_the_daemons_files_say_each_thing_once(verb: str) -> None:
    with DaemonUnderTest() as daemon:
        if verb == "run":
            daemon.run()
            daemon.wait_ready()
        else:
            assert daemon.cli("start").returncode == 0
        folder = folder_of(daemon)
        until(lambda: "ready" in [entry["event"] for entry in entries(folder / GENERAL)], "READY is said")
        events = [entry["event"] for entry in entries(folder / GENERAL)]
        assert events.count("listening") == events.count("ready") == 1
        (figures,) = entries(folder / METRICS)
        assert set(figures) == {
            "time", "uptime_s", "rss_bytes", "cpu_s", "open_fds", "threads", "loop_lag_s", "requests", "models",
        }  # fmt: skip
        assert not (folder / ERRORS).exists()
        stderr = folder / "llmsup-stderr.log"
        if verb == "run":
            assert not stderr.exists()
            assert "listening" in (daemon.folder / "daemon.log").read_text()
        else:
            assert stderr.read_text() == ""
        assert daemon.cli("logs", "--daemon", "-n", "1000").stdout.count('"listening"') == 1
        assert "nothing has been logged yet" in daemon.cli("logs", "--errors").stderr


def test_a_crash_of_the_interpreter_is_in_the_stderr_file() -> None:
    with DaemonUnderTest() as daemon:
        assert daemon.cli("start").returncode == 0
        os.kill(daemon.pid, signal.SIGSEGV)
        stderr = folder_of(daemon) / "llmsup-stderr.log"
        until(lambda: "Segmentation fault" in stderr.read_text(), "faulthandler's words")
        until(lambda: not daemon.alive(), "all gone")


def test_a_start_whose_daemon_crashes_says_what_that_was() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_s": 60}}}) as daemon:
        with ThreadPoolExecutor(1) as shell:
            starting = shell.submit(daemon.cli, "start")
            daemon.wait_for(lambda one: one["state"] == "LOADING", "LOADING")
            os.kill(daemon.pid, signal.SIGSEGV)
            done = starting.result(DEADLINE_S)
        assert done.returncode == 1
        assert done.stderr == "llmsup: error: Fatal Python error: Segmentation fault\n"


# ---- secrets


def test_no_secret_shows_anywhere(tmp_path: Path) -> None:
    """FAULTS 55: a child that tells all it knows, at every opportunity."""
    fake = write_wrapper(tmp_path / "fake")
    chatty = tmp_path / "llama-server"
    chatty.write_text(
        "#!/bin/sh\n"
        'if [ -n "$LLAMA_API_KEY" ]; then\n'
        '  echo "server --api-key $LLAMA_API_KEY and bare: $LLAMA_API_KEY HF_TOKEN: $HF_TOKEN" >&2\n'
        '  [ -e "$0.die" ] && { echo "error: invalid argument: $LLAMA_API_KEY" >&2; exit 1; }\n'
        "fi\n"
        f'exec {fake} "$@"\n'
    )
    chatty.chmod(0o755)
    token = "my-own-hugging-face-token"
    with DaemonUnderTest(binary=chatty, models={"demo": {"env": {"HF_TOKEN": token}}}) as daemon:
        daemon.run()
        one = daemon.wait_ready()
        key = psutil.Process(one["pid"]).environ()["LLAMA_API_KEY"]
        until(lambda: "and bare: *** HF_TOKEN: ***" in child_log(daemon).read_text(), "masked")
        (tmp_path / "llama-server.die").touch()
        daemon.kill_child()
        daemon.wait_for(lambda one: one["last_death"] and one["last_death"]["cause"] != "killed", "died")
        reply = daemon.ask("GET", "/health")
        shown = [json.dumps(daemon.status()), reply.body.decode(), daemon.cli("status").stdout, daemon.log()]
        shown += [file.read_text(errors="replace") for file in daemon.state_dir.rglob("*") if file.is_file()]
        whole = "".join(shown)
        assert key not in whole
        assert token not in whole
        assert "bare: *** HF" in whole
        assert "invalid argument: ***" in whole
