"""Bringing a child into the world so that it cannot outlive us.

Always from the main thread: the kernel ties the parent-death signal to the *thread* that forked.
Never with ``preexec_fn``: it forbids vfork (24 ms against 0.7 ms with an 800 MiB parent) and can
deadlock. What must happen before exec is done by a launcher that replaces itself by the child.
"""

import errno
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import BuildError, InstanceError

# Of each thread, and set aside but not used: llama-server's parsers go as deep as a request is nested. 8 MiB end at
# 19,000 groups of a grammar, 64 at 147,000; `unlimited` would be 2 MiB for threads. Resident memory stays the same,
# and what is mapped grows by 24 MiB a thread.
STACK_MIB = 32
# $0 is our pid: if the daemon died before the death signal was armed, our parent is somebody else by
# now, and the child must not begin. No core file: a dump of the weights can fill the disk, and has prompts and keys in it.
_SHELL = (
    '[ "$PPID" = "$0" ] || exit 125; ulimit -c 0; '
    f'ulimit -S -s {STACK_MIB * 1024} 2>/dev/null; exec "$@"'  # a lower hard limit is left as it is
)


@dataclass(slots=True)
class Child:
    """A living (or unreaped) process that leads its own session and group. ``pid`` is its group too."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def mark_reaped(self, returncode: int) -> None:
        """Tell the library object what our own reaper has collected."""
        self.process.returncode = returncode


class SpawnFailed(InstanceError):
    """``transient``: the machine had no room for a process just now; the child is not to blame."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@functools.cache
def launcher(parent: int) -> tuple[str, ...]:
    """The words before the child's own argument list; empty where the kernel has no such signal.

    ``parent`` is our pid: what was found before a fork must not be used after it.
    """
    if not sys.platform.startswith("linux"):
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is not None and _knows_pdeathsig(setpriv):
        # No new privileges: whatever a request makes it run gains none by a file's set-user-ID bit.
        return (setpriv, "--pdeathsig", "KILL", "--no-new-privs", "--", "/bin/sh", "-c", _SHELL, str(parent))
    script = Path(__file__).with_name("launch.py")
    return (sys.executable, "-I", "-S", str(script), str(parent))


def _knows_pdeathsig(setpriv: str) -> bool:
    """busybox has a setpriv too, without the first of these options."""
    done = subprocess.run(
        [setpriv, "--pdeathsig", "KILL", "--no-new-privs", "--", "/bin/true"],
        capture_output=True,
        check=False,
        timeout=10,
    )
    return done.returncode == 0


def spawn(
    argv: Sequence[str], env: Mapping[str, str], *, output_fd: int, pass_fds: Sequence[int] = ()
) -> Child:
    """Start ``argv`` as leader of a session of its own, both outputs to ``output_fd``; it inherits ``pass_fds``.

    Raises:
        BuildError: the executable is missing or cannot be run.
        SpawnFailed: the machine could not make a process.
    """
    assert threading.current_thread() is threading.main_thread()  # noqa: S101  see the module docstring
    if not os.path.isfile(argv[0]) or not os.access(argv[0], os.X_OK):  # a folder is "executable" too
        what = "is not executable" if os.path.exists(argv[0]) else "does not exist"
        raise BuildError(f"{argv[0]} {what}", hint="build it with: llmsup build")
    try:
        process = subprocess.Popen(
            [*launcher(os.getpid()), *argv],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            start_new_session=True,
            close_fds=True,
            pass_fds=pass_fds,
        )
    except OSError as exc:
        if exc.errno in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
            raise SpawnFailed(f"no process could be made: {exc.strerror}", transient=True) from exc
        raise SpawnFailed(f"{argv[0]} could not be started: {exc.strerror}", transient=False) from exc
    return Child(process)
