import os
import subprocess
import sys

from supervisor.proc import vitals


def test_our_own_signs_of_life():
    signs = vitals.read(os.getpid())
    assert signs.rss_bytes > 1 << 20
    assert signs.cpu_s > 0
    assert signs.io_bytes > 0
    assert signs.state in {"R", "S", "D"}


def test_nobody_there():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert vitals.read(gone.pid) is None


def test_a_name_full_of_brackets_and_spaces(tmp_path):
    program = tmp_path / "a) R (b"
    os.symlink(sys.executable, program)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert vitals.read(child.pid).rss_bytes > 0
        child.communicate(b"\n")


def test_the_portable_way_agrees():
    assert abs(vitals._read_psutil(os.getpid()).rss_bytes - vitals.read(os.getpid()).rss_bytes) < 1 << 24
    assert vitals._read_psutil(2**22 + 1) is None


def test_a_group_lives_until_its_last_member_has_ended():
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        assert vitals.any_alive(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not vitals.any_alive(child.pid)  # a zombie
