"""FAULTS 10: a child whose helper forked twice, left its session and closed all it had inherited."""

import sys
from pathlib import Path

import psutil

from supervisor.proc import lifelock
from tests.support.daemon import DaemonUnderTest, until
from tests.support.fake_llama_server import write_wrapper

# Each server begins one and writes down its pid; then it is the fake as ever.
SERVER = """#!/bin/sh
case "$*" in
*--port*) {python} -c '
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 256)
        with open(sys.argv[1], "a") as file:
            print(os.getpid(), file=file)
        time.sleep(600)
    os._exit(0)
os.wait()
' {pids} ;;
esac
exec {fake} "$@"
"""


class Strays:
    def __init__(self, folder: Path) -> None:
        write_wrapper(folder / "fake")
        self.pids = folder / "pids"
        self.binary = folder / "llama-server"
        self.binary.write_text(
            SERVER.format(python=sys.executable, pids=self.pids, fake=folder / "fake"), encoding="utf-8"
        )
        self.binary.chmod(0o755)

    def all(self) -> list[int]:
        return [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []


def test_what_left_its_group_is_gone_before_the_next_generation_and_at_the_end(tmp_path: Path) -> None:
    strays = Strays(tmp_path)
    with DaemonUnderTest(binary=strays.binary, models={"demo": {}, "other": {}}) as daemon:
        daemon.run()
        daemon.wait_ready()
        daemon.wait_ready("other")
        until(lambda: len(strays.all()) == 2, "one of each model")
        pid = daemon.child_pid
        (stray,) = [one for one in strays.all() if model_of(one) == "demo"]
        (others,) = [one for one in strays.all() if one != stray]
        run = daemon.run_dir.path
        assert psutil.Process(stray).ppid() == daemon.pid, "the kernel gave it to the daemon"
        assert daemon.wait_next(daemon.kill_child())["pid"] != pid
        assert not psutil.pid_exists(stray), "ended and reaped"
        assert lifelock.is_held(lifelock.path_of(run, "demo"))
        assert "ending a process that left its group" in daemon.log()
        assert psutil.pid_exists(others), "another model's is left alone"
        until(lambda: len(strays.all()) == 3, "the next generation has its own")
        daemon.stop()
        assert not any(psutil.pid_exists(one) for one in strays.all())


def test_what_ended_by_itself_is_no_zombie_for_long(tmp_path: Path) -> None:
    strays = Strays(tmp_path)
    with DaemonUnderTest(binary=strays.binary) as daemon:
        daemon.run()
        daemon.wait_ready()
        (stray,) = until(strays.all, "it has one")
        psutil.Process(stray).kill()
        until(lambda: not psutil.pid_exists(stray), "reaped", within_s=30)
        assert daemon.chat().status == 200


def model_of(pid: int) -> str:
    return psutil.Process(pid).environ()["LLMSUP_INSTANCE"].split(":")[2]
