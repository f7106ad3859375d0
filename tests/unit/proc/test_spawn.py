import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import BuildError
from supervisor.proc import spawn
from tests.support.proc import eventually, lives

pytestmark = pytest.mark.anyio
LAUNCH = str(Path(spawn.__file__).with_name("launch.py"))
ENV = {"PATH": os.environ["PATH"]}
SHOW_PDEATHSIG = (
    "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
)


@pytest.fixture(params=["setpriv", "launch.py"])
def way(request, monkeypatch):
    """Both launchers; the second is what machines without util-linux get."""
    if request.param == "launch.py":
        monkeypatch.setattr(spawn.shutil, "which", lambda _: None)
    spawn.launcher.cache_clear()
    yield request.param
    spawn.launcher.cache_clear()


def said(*argv, env=ENV):
    read, write = os.pipe()
    child = spawn.spawn(argv, env, output_fd=write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    child.process.wait()
    return child, text


def test_the_launcher_is_the_one_expected(way):
    assert way in " ".join(spawn.launcher(os.getpid()))
    assert str(os.getpid()) in spawn.launcher(os.getpid())
    assert spawn.launcher(1) != spawn.launcher(2)


def test_the_child_leads_its_own_session_and_group(way):
    child, text = said("/bin/sh", "-c", "ps -o pid=,pgid=,sid= -p $$; ulimit -c")
    assert text.split() == [*[str(child.pid)] * 3, "0"]


def test_no_core_a_larger_stack_and_no_new_privileges(way):
    _, text = said("/bin/sh", "-c", "ulimit -c; ulimit -S -s; grep NoNewPrivs /proc/self/status")
    assert text.split() == ["0", str(spawn.STACK_MIB * 1024), "NoNewPrivs:", "1"]


def test_a_lower_hard_limit_of_the_stack_is_left_as_it_is(way):
    script = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 4 << 20));"
        "os.execv(sys.argv[1], [*sys.argv[1:]])"
    )
    words = [*spawn.launcher(os.getpid()), "/bin/sh", "-c", "ulimit -s"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4096"]
    assert done.stderr == ""


def test_the_death_signal_is_armed(way):
    assert said(sys.executable, "-c", SHOW_PDEATHSIG)[1].strip() == str(int(signal.SIGKILL))


def test_environment_arguments_and_descriptors_are_what_was_given(way):
    words = ["a b", "$HOME", "--", "'"]
    _, text = said("/bin/sh", "-c", 'printf "%s|" "$@" "$ONLY" "$HOME"', "sh", *words, env={"ONLY": "this"})
    assert text == "a b|$HOME|--|'|this||"
    assert said("/bin/sh", "-c", "ls /proc/self/fd")[1].split() == ["0", "1", "2", "3"]  # 3: ls itself


@pytest.mark.fault(23)
async def test_it_dies_with_its_parent(way, tmp_path):
    helper = tmp_path / "helper.py"
    helper.write_text(
        "import sys, time\n"
        "from supervisor.proc import spawn\n"
        f"if {way!r} == 'launch.py': spawn.shutil.which = lambda _: None\n"
        "child = spawn.spawn([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'],"
        " {}, output_fd=1)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, helper], stdout=subprocess.PIPE, env={**ENV, "PYTHONPATH": root}
    ) as parent:
        lines = sorted((parent.stdout.readline(), parent.stdout.readline()), key=int)
        pid = int(lines[1])
        assert lives(pid)
        parent.kill()
        parent.wait()
        await eventually(lambda: not lives(pid), within_s=2)


@pytest.mark.parametrize(
    ("parent", "program", "code", "words"),
    [
        pytest.param(str(os.getpid() + 1), "/bin/true", 125, b"", id="another parent"),
        (None, "/bin/true", 0, b""),
        (None, "/nowhere", 127, b"cannot run /nowhere: No such file or directory\n"),
    ],
)
def test_the_python_launcher_by_itself(parent, program, code, words):
    command = [sys.executable, "-I", "-S", LAUNCH, parent or str(os.getpid()), program]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (code, words)


@pytest.mark.fault(24)
def test_a_parent_that_has_changed_is_noticed_by_the_shell_too(way):
    done = subprocess.run([*spawn.launcher(1), "/bin/true"], check=False)
    assert done.returncode == 125


@pytest.mark.parametrize("kind", ["missing", "not executable", "folder"])
def test_what_cannot_be_run_is_said_before_anything_is_started(tmp_path, kind):
    path = tmp_path / "llama-server"
    if kind == "not executable":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    words = "does not exist" if kind == "missing" else "is not executable"
    with pytest.raises(BuildError, match=words) as raised:
        spawn.spawn([str(path)], {}, output_fd=1)
    assert "llmsup build" in raised.value.hint


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("number", "transient"), [(errno.EAGAIN, True), (errno.EMFILE, True), (errno.E2BIG, False)]
)
def test_no_room_for_a_process_is_not_the_childs_fault(monkeypatch, number, transient):
    spawn.launcher(os.getpid())

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(spawn.subprocess, "Popen", refuse)
    with pytest.raises(spawn.SpawnFailed) as raised:
        spawn.spawn(["/bin/true"], {}, output_fd=1)
    assert raised.value.transient is transient


def test_another_system_has_no_launcher(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    spawn.launcher.cache_clear()
    assert spawn.launcher(1) == ()
    spawn.launcher.cache_clear()


def test_a_setpriv_without_the_option_is_not_used(tmp_path, monkeypatch):
    busybox = tmp_path / "setpriv"
    busybox.write_text("#!/bin/sh\nexit 1\n")
    busybox.chmod(0o755)
    monkeypatch.setattr(spawn.shutil, "which", lambda _: str(busybox))
    spawn.launcher.cache_clear()
    assert "launch.py" in " ".join(spawn.launcher(1))
    spawn.launcher.cache_clear()
