"""FAULTS 5, 21, 24, 27, 28: the daemon itself is hit, or is kept busy, at the worst moment."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from supervisor.proc import leftovers
from tests.support import rawhttp
from tests.support.daemon import DEADLINE_S, DaemonUnderTest, running, until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, which is Linux's")


# ---- killed at the worst moment


@pytest.mark.fault(24)
@pytest.mark.parametrize("defect", ["dies-between-fork-and-record", "dies-while-it-records"])
def test_a_child_of_a_daemon_killed_before_it_was_written_down_is_found_by_its_marks(defect: str) -> None:
    """And the kernel's death signal does not reach it here."""
    with DaemonUnderTest() as daemon:
        daemon.defect = defect
        daemon.run()
        assert daemon.process is not None
        daemon.process.wait(DEADLINE_S)
        assert daemon.process.returncode == -signal.SIGKILL
        (orphan,) = until(daemon.children_alive, "the child of the dead daemon")
        record = daemon.run_dir.path / leftovers.FILE_NAME
        assert leftovers.recorded(record) == ()
        daemon.defect = ""
        daemon.run()
        one = daemon.wait_ready()
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert [child.pid for child in daemon.children_alive()] == [one["pid"]]
        assert [known.pid for known in leftovers.recorded(record)] == [one["pid"]]
        assert daemon.chat().status == 200


# ---- stopped for long


@pytest.mark.fault(27)
@pytest.mark.slow
def test_a_daemon_that_stood_still_beyond_every_limit_restarts_nothing() -> None:
    """Eight seconds: longer than the limit for silence (2 s), than the gap between two looks that is still
    believed (5 s), and than a poll of the children; with requests inside, and an idle bystander.
    """
    with running(models={"demo": {}, "bystander": {}}, proxy={"request_timeout_s": 2}) as daemon:
        daemon.wait_ready("bystander")
        before = {one["name"]: one["pid"] for one in daemon.status()["models"]}
        pid = daemon.pid
        replies: list[rawhttp.Response] = []
        fake = {"token_delay_s": 0.2}
        asking = threading.Thread(
            target=lambda: replies.append(daemon.chat(stream=True, max_tokens=80, fake=fake, timeout_s=60))
        )
        asking.start()
        until(lambda: daemon.model()["slots"]["busy"], "it is inside")
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(8.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        asking.join(60)
        assert (replies[0].status, replies[0].complete) == (200, True)
        time.sleep(3.0)  # several looks
        after = daemon.status()["models"]
        assert {one["name"]: one["pid"] for one in after} == before
        assert {(one["generation"], one["suspect"]) for one in after} == {(1, None)}


# ---- a defect of its own


@pytest.mark.fault(28)
def test_an_exception_in_one_instances_task_hurts_that_instance_only_and_the_task_goes_on() -> None:
    with DaemonUnderTest(models={"demo": {}, "bystander": {}}) as daemon:
        daemon.defect = "fails-in-the-task-of-demo"
        daemon.expected_traceback = True
        daemon.run()
        for name in ("demo", "bystander"):
            daemon.wait_ready(name)
        bystander = daemon.model("bystander")["pid"]
        generation = daemon.kill_child(model="demo")
        assert daemon.chat(model="bystander").status == 200
        assert daemon.chat(model="demo").status == 200
        one = daemon.wait_next(generation, "demo")
        assert one["last_death"]["cause"] == "internal_error"
        assert "task failed: see its log" in one["last_death"]["detail"]
        assert "instance task failed; going on" in daemon.log()
        assert '"exc_type": "RuntimeError", "exc_value": "a defect of ours"' in daemon.log()
        assert daemon.model("bystander")["pid"] == bystander
        daemon.wait_next(daemon.kill_child(model="demo"), "demo")  # and the task has gone on for good


@pytest.mark.fault(28)
def test_an_exception_in_one_of_the_daemons_own_jobs_is_said_and_the_job_goes_on() -> None:
    with DaemonUnderTest() as daemon:
        daemon.defect = "fails-in-a-job"
        daemon.expected_traceback = True
        daemon.run()
        daemon.wait_ready()
        until(lambda: "job failed; going on" in daemon.log(), "it is said")
        assert '"job": "control"' in daemon.log()
        daemon.run_dir.socket_path.unlink()
        until(daemon.run_dir.socket_path.exists, "the job is at work again", 5.0)
        assert daemon.chat().status == 200


# ---- again and again


@pytest.mark.fault(5)
def test_after_five_unstable_runs_it_is_tried_every_five_minutes_and_health_says_why_and_when() -> None:
    with DaemonUnderTest(models={"demo": {"fake": {"load_exit": 3}}}) as daemon:
        daemon.defect = "hurried-backoff"
        daemon.run()
        one = daemon.wait_for(lambda one: one["state"] == "CRASHLOOP", "CRASHLOOP")
        assert daemon.starts() == one["generation"] == 6
        assert 250 < one["next_try_s"] <= 375
        health = daemon.health()
        assert health.status == 503
        told: Any = health.json()
        assert told["state"] == "CRASHLOOP"
        assert "load_failed" in told["error"]
        refused = daemon.chat()
        assert refused.status == 503
        assert b'"model_unavailable"' in refused.body
        assert 250 < int(refused.header("retry-after") or 0) <= 375
        daemon.behave()
        assert daemon.cli("restart").returncode == 1  # the operator does not wait for it


# ---- commands that meet


@pytest.mark.fault(21)
def test_fifty_commands_at_once_are_all_answered_and_one_tree_stays() -> None:
    with running() as daemon:
        control = ControlClient(daemon.run_dir)
        slowest: list[float] = []

        def command(number: int) -> str:
            if number % 5 == 0:
                begun = time.monotonic()
                control.get("/status")
                slowest.append(time.monotonic() - begun)
                return "status"
            verb = "/reload" if number % 5 == 1 else "/restart"
            control.post(verb)
            return verb

        with ThreadPoolExecutor(50) as shells:
            done = Counter(shells.map(command, range(50)))
        assert done == {"status": 10, "/reload": 10, "/restart": 30}
        assert min(slowest) < 1.0
        one = daemon.wait_for(
            lambda one: one["state"] == "READY" and one["generation"] > 1 and one["second"] is None,
            "a newer one serves, alone",
        )
        # They were serialised: each generation was begun by a restart, and those that met one that was under
        # way became one with it.
        assert 1 < one["generation"] <= 31
        assert daemon.starts() <= one["generation"]  # some were ended before they could count themselves
        assert daemon.chat().status == 200
        assert len(daemon.children_alive()) == 1


@pytest.mark.fault(21)
def test_restarts_during_a_stop_do_not_resurrect_it() -> None:
    """It stops slowly: a stream is in it, and the drain waits for that."""
    with running() as daemon, daemon.streaming(max_tokens=20, fake={"token_delay_s": 0.05}) as reader:
        control = ControlClient(daemon.run_dir)
        control.post("/stop")
        for _ in range(20):
            with pytest.raises(LlmsupError, match="shutting down"):
                control.post("/restart")
        while reader.chunk():
            pass
        assert daemon.process is not None
        assert daemon.process.wait(DEADLINE_S) == 0
        assert daemon.starts() == 1
