"""On real processes, each test in a process of its own: a subreaper stays one for life."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRELUDE = """
    import asyncio, os, signal, subprocess, sys, time
    from supervisor.clock import SystemClock
    from supervisor.proc import orphans

    CLOCK = SystemClock()
    # The middle one ends, and what it began is left to us.
    FORK = '''if True:
        from subprocess import DEVNULL, Popen
        import sys
        print(Popen(sys.argv[1:], stdout=DEVNULL, stderr=DEVNULL, start_new_session=True).pid, flush=True)
    '''

    def leave(marker, *argv):
        env = dict(os.environ) | ({"LLMSUP_INSTANCE": marker} if marker else {})
        argv = argv or ("sleep", "60")
        said = subprocess.run([sys.executable, "-c", FORK, *argv], env=env, stdout=subprocess.PIPE, check=True)
        pid = int(said.stdout)
        deadline = time.monotonic() + 5
        while parent(pid) != os.getpid():
            assert time.monotonic() < deadline, parent(pid)
        return pid

    def parent(pid):
        facts = orphans._facts(pid)
        return int(facts[1]) if facts else None

    def end(marker):
        return asyncio.run(orphans.end(marker, CLOCK))

    def soon(holds):
        deadline = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    assert orphans.adopt()
"""


def in_a_process(script: str) -> None:
    """Run it; its assertions are ours."""
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_left_its_group_is_ended_and_reaped():
    in_a_process("""
        pid = leave("home:1:demo:1")
        assert os.getsid(pid) == pid
        assert end("home:1:demo:1") == []
        assert parent(pid) is None
        assert orphans.childless()
    """)


@pytest.mark.parametrize("marker", ["home:1:demo:2", "home:1:demo:12", "", "other:1:demo:1"])
def test_what_is_of_another_generation_or_nobodys_lives(marker):
    in_a_process(f"""
        pid = leave({marker!r})
        assert end("home:1:demo:1") == []
        assert parent(pid) == os.getpid()
        os.kill(pid, signal.SIGKILL)
    """)


def test_what_it_had_started_itself_goes_too():
    in_a_process("""
        script = "import subprocess, time; p = subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
        pid = leave("m:1:demo:1", sys.executable, "-c", script)
        inner = []
        soon(lambda: inner.extend(p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(p) == pid)
             or inner)
        assert end("m:1:demo:1") == []
        assert [parent(p) for p in (pid, *inner)] == [None, None]
    """)


def test_without_any_child_nothing_is_looked_at():
    in_a_process("""
        orphans.children = None
        assert end("m:1:demo:1") == []
    """)


def test_one_that_cannot_be_ended_is_told_after_a_while():
    in_a_process("""
        pid = leave("m:1:demo:1")
        orphans.GRACE_S, kill, os.kill = 0.05, os.kill, lambda *_: None
        assert end("m:1:demo:1") == [pid]
        kill(pid, signal.SIGKILL)
    """)


def test_those_that_ended_by_themselves_are_reaped_and_nobody_elses():
    in_a_process("""
        leader = subprocess.Popen(["true"], start_new_session=True)
        helper = subprocess.Popen(["true"])
        pid = leave("m:1:demo:1", "sleep", "0.2")
        soon(lambda: all(orphans._facts(p)[:1] == ["Z"] for p in (leader.pid, helper.pid, pid)))
        assert orphans.reap({leader.pid}) == 1
        assert parent(pid) is None
        assert (leader.wait(), helper.wait()) == (0, 0)
        assert orphans.reap(set()) == 0
        assert orphans.childless()
    """)


def test_the_kernels_list_and_the_search_agree(tmp_path):
    in_a_process("""
        pids = {leave("m:1:demo:1"), leave("m:1:demo:2"), subprocess.Popen(["sleep", "60"], stdout=-3, stderr=-3).pid}
        assert set(orphans._searched()) == pids
        assert orphans._listed() is None or set(orphans._listed()) == pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    """)
