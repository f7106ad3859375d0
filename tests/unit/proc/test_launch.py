"""In this process, with exec and exit replaced; as a program it is tested with `spawn`."""

import os
import resource
import signal
import sys

import pytest

from supervisor.proc import launch


class Left(BaseException):
    pass


class Libc:
    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def prctl(self, *args):
        self.calls.append(args)
        return self.answer


@pytest.fixture
def begun(monkeypatch):
    """Run main() as if started by ``parent``; tells how it left, and what it asked the kernel for."""

    def leave(*how):
        raise Left(*how)

    def begin(parent, answer=0, execv=leave):
        libc = Libc(answer)
        monkeypatch.setattr(launch.ctypes, "CDLL", lambda *_, **__: libc)
        monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
        monkeypatch.setattr(os, "_exit", leave)
        monkeypatch.setattr(os, "execv", execv)
        monkeypatch.setattr(sys, "argv", ["launch.py", str(parent), "/nowhere", "-x"])
        with pytest.raises(Left) as left:
            launch.main()
        return left.value.args, libc.calls

    return begin


def test_it_arms_the_signal_and_becomes_the_program(begun):
    how, calls = begun(os.getppid())
    assert how == ("/nowhere", ["/nowhere", "-x"])
    assert calls == [(1, signal.SIGKILL, 0, 0, 0), (38, 1, 0, 0, 0)]


@pytest.mark.parametrize(
    ("parent", "answer"), [(os.getpid(), 0), (os.getppid(), -1)], ids=["another", "refused"]
)
def test_it_does_not_begin_where_it_could_outlive_its_parent(begun, parent, answer):
    assert begun(parent, answer)[0] == (launch.NOT_OURS,)


def test_a_failed_exec_is_said(begun, capfd):
    def execv(*_):
        raise FileNotFoundError(2, "No such file or directory")

    assert begun(os.getppid(), execv=execv)[0] == (127,)
    assert capfd.readouterr().err == "cannot run /nowhere: No such file or directory\n"
