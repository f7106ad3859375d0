"""FAULTS 1, 7, 8 and 30: every death is explained afterwards; the safe profile; files that are mended."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.proc import cgroup, deaths
from supervisor.types import MIB
from tests.support.daemon import DaemonUnderTest, running, until

NO_MEMORY = "ggml_aligned_malloc: insufficient memory (attempted to allocate 9000.00 MB)"


def why(daemon: DaemonUnderTest, *arguments: str) -> dict[str, Any]:
    done = daemon.cli("why", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def newest(daemon: DaemonUnderTest, cause: str) -> dict[str, Any]:
    """The newest death, once that is told and has that cause."""

    def found() -> dict[str, Any] | None:
        told = why(daemon)["deaths"]
        return told[0] if told and told[0]["cause"] == cause else None

    return until(found, f"why says {cause}") or {}


def record(daemon: DaemonUnderTest) -> Any:
    return daemon.state_dir / deaths.FILE_NAME


@pytest.mark.fault(1)
def test_why_with_and_without_a_daemon() -> None:
    with running() as daemon:
        assert "No deaths are on record" in daemon.cli("why").stdout
        daemon.wait_next(daemon.kill_child())
        told = newest(daemon, "killed")
        assert (told["model"], told["generation"], told["phase"], told["signal"]) == (
            "demo",
            1,
            "ready",
            "SIGKILL",
        )
        assert told["then"] == "started it again at once"
        assert told["lines"]
        daemon.wait_next(daemon.kill_child(signal.SIGSEGV))
        assert newest(daemon, "segfault")["then"].startswith("waited 1.")
        said = daemon.cli("why", "demo").stdout
        assert "demo is READY now" in said
        assert "Last hour: 1 x segfault, 1 x killed." in said
        assert daemon.cli("why", "nonesuch").returncode == 1
        daemon.stop()
        told = why(daemon)["deaths"]
        assert [one["cause"] for one in told] == ["stopped", "segfault", "killed"]
        assert "not running" in daemon.cli("why").stdout
        assert "no model named 'nonesuch'" in daemon.cli("why", "nonesuch").stderr


@pytest.mark.fault(7)
def test_a_missing_model_is_explained_and_started_once_it_is_there() -> None:
    with DaemonUnderTest() as daemon:
        content = daemon.model_path.read_bytes()
        daemon.model_path.unlink()
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        told = newest(daemon, "model_missing")
        assert str(daemon.model_path) in told["detail"]
        assert told["then"].startswith("gave up")
        assert "models.demo.path" in told["todo"]
        daemon.model_path.write_bytes(content)
        daemon.wait_ready()


@pytest.mark.fault(7)
def test_a_broken_model_starts_by_itself_when_mended() -> None:
    with DaemonUnderTest() as daemon:
        content = daemon.model_path.read_bytes()
        daemon.model_path.write_bytes(b"PK\3\4 no model")
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        assert newest(daemon, "model_corrupt")["phase"] == "loading"
        fresh = daemon.model_path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(daemon.model_path)
        daemon.wait_ready()


@pytest.mark.fault(7)
def test_an_unknown_flag_is_explained_by_the_line_that_says_it() -> None:
    with DaemonUnderTest(models={"demo": {"args": ["--no-such-flag"]}}) as daemon:
        daemon.run()
        daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        told = newest(daemon, "bad_flag")
        assert "--no-such-flag" in told["evidence"]
        assert "models.demo.args" in told["todo"]


@pytest.mark.fault(8)
def test_out_of_memory_once_with_the_safe_profile_then_failed_with_the_numbers() -> None:
    safe = {"context_size": 1024, "batch_size": 64}
    fake = {"load_message": NO_MEMORY, "load_exit": 1}
    with DaemonUnderTest(fake=fake, models={"demo": {"safe_profile": safe}}) as daemon:
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "FAILED", "FAILED")
        assert daemon.starts() == 2
        numbers = "context_size 1024 instead of 4096, batch_size 64 instead of 256"
        assert numbers in one["degraded"]
        assert numbers in one["last_death"]["detail"]
        assert "9000.00 MB" in one["last_death"]["detail"]
        assert f"degraded: safe profile ({numbers})" in daemon.cli("status").stdout
        second = newest(daemon, "out_of_memory")
        first = why(daemon)["deaths"][1]
        assert (first["degraded"], second["degraded"]) == (None, one["degraded"])
        assert "with the safe profile" in first["then"]
        assert second["then"].startswith("gave up")
        daemon.behave()
        assert daemon.cli("restart").returncode == 0
        assert daemon.wait_ready()["degraded"] is None


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of our own with 250 MB; skips where none may be made."""
    counter = cgroup.locate(cgroup.MOUNT, cgroup.MEMBERSHIP)
    if counter is None:
        pytest.skip("no cgroup counts out-of-memory kills here")
    folder = counter.parent / f"llmsup-test-{os.getpid()}"
    limit = "memory.max" if counter.name == "memory.events" else "memory.limit_in_bytes"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        try:
            (folder / limit).write_text(str(250 * MIB))
        except OSError as error:
            pytest.skip(f"no cgroup can be limited: {error}")
        yield folder
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), "the cgroup is empty")
        folder.rmdir()


@pytest.mark.fault(8)
def test_a_kill_by_the_kernel_is_out_of_memory_and_no_kill_from_outside(small_cgroup: Path) -> None:
    fake = {"rss_bytes": 600 * MIB, "fault_runs": 1}
    with DaemonUnderTest(models={"demo": {"safe_profile": {"context_size": 1024}, "fake": fake}}) as daemon:
        daemon.run()
        assert daemon.process is not None
        (small_cgroup / "cgroup.procs").write_text(str(daemon.process.pid))  # it takes 100 ms to begin
        one = daemon.wait_next(1)
        death = one["last_death"]
        assert (death["cause"], death["signal"]) == ("out_of_memory", "SIGKILL")
        assert "oom_kill counter of our cgroup went from 0 to 1" in death["detail"]
        assert one["degraded"].endswith("because it ran out of memory")


@pytest.mark.fault(8, 9)
def test_a_request_that_takes_all_memory_is_refused_and_the_model_goes_on(small_cgroup: Path) -> None:
    with DaemonUnderTest(models={"demo": {"safe_profile": {"context_size": 1024}}}) as daemon:
        daemon.run()
        assert daemon.process is not None
        (small_cgroup / "cgroup.procs").write_text(str(daemon.process.pid))
        daemon.wait_ready()
        bomb = daemon.chat("bomb", fake={"rss_bytes": 600 * MIB})
        assert (bomb.status, bomb.json()["error"]["code"]) == (422, "request_quarantined")  # type: ignore[index,call-overload]
        one = daemon.wait_ready()
        assert (one["generation"], one["degraded"]) == (3, None)
        assert one["last_death"]["cause"] == "out_of_memory"
        assert daemon.chat().status == 200


def test_the_safe_profile_serves() -> None:
    fake = {"load_message": NO_MEMORY, "load_exit": 1, "fault_runs": 1}
    with DaemonUnderTest(models={"demo": {"safe_profile": {"context_size": 1024}, "fake": fake}}) as daemon:
        daemon.run()
        one = daemon.wait_ready()
        assert one["generation"] == 2
        assert "because it ran out of memory" in one["degraded"]
        assert daemon.health().json()["context_size"] == 1024
        assert daemon.chat().status == 200


@pytest.mark.parametrize("garbage", [b"", b'{"schema": 1, "deaths": [{'])
def test_a_damaged_record_is_moved_aside_and_the_one_before_used(garbage: bytes) -> None:
    with running() as daemon:
        daemon.wait_next(daemon.kill_child())
        newest(daemon, "killed")
        daemon.stop()
        record(daemon).write_bytes(garbage)
        told = why(daemon)
        assert [one["cause"] for one in told["deaths"]] == ["killed"]
        assert "cannot be read" in told["note"]
        daemon.run()
        daemon.wait_ready()
        assert record(daemon).with_name("deaths.json.corrupt-1").read_bytes() == garbage
        daemon.wait_next(daemon.kill_child())
        until(lambda: len(why(daemon)["deaths"]) == 2, "the old and the new")


@pytest.mark.fault(24)
def test_a_daemon_killed_while_it_writes_leaves_a_whole_record() -> None:
    """FAULTS 24; at any moment: tests/unit/proc/test_deaths.py."""
    with DaemonUnderTest() as daemon:
        for round_ in range(3):
            daemon.run()
            daemon.wait_ready()
            daemon.kill_child()
            time.sleep(0.01 * round_)
            assert daemon.process is not None
            daemon.process.kill()
            daemon.process.wait()
            found, wrong = deaths.read(record(daemon))
            assert wrong == ""
            assert {entry.death.cause for entry in found} <= {"killed"}
        assert not list(daemon.state_dir.glob("*.corrupt*"))
        until(lambda: not daemon.alive(), "nothing is left")
        daemon.expected_exit = None


@pytest.mark.fault(30)
def test_a_record_that_cannot_be_written_is_flagged_and_caught_up_with() -> None:
    with running() as daemon:
        # Root may write anywhere, so the new file's place is taken by a folder.
        blocked = daemon.state_dir / ".deaths.json.new"
        blocked.mkdir()
        daemon.wait_next(daemon.kill_child())
        until(lambda: daemon.status()["deaths"]["error"], "flagged")
        assert "not on the disk" in daemon.cli("status").stdout
        said = daemon.cli("why").stdout
        assert "not on the disk yet" in said
        assert "1 x killed" in said, "what is only in its memory is told by the daemon"
        assert not record(daemon).exists() or not deaths.read(record(daemon))[0]
        assert why(daemon, "demo")["deaths"][0]["cause"] == "killed"
        assert daemon.chat().status == 200
        blocked.rmdir()
        until(lambda: daemon.status()["deaths"]["error"] is None, "caught up")
        assert newest(daemon, "killed")["generation"] == 1
