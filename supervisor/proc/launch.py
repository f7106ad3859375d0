"""The launcher where ``setpriv --pdeathsig`` is missing: ``launch.py PARENT_PID PROGRAM ARGS...``.

Run by path with ``python -I -S``, so it imports nothing of ours. Arms the parent-death signal, makes
sure that the parent still is who it was, takes away what `spawn` says, and becomes the program.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
STACK_BYTES = 32 * 1024 * 1024  # as in `spawn`
NOT_OURS = 125


def main() -> None:
    """Never returns: exec, or exit with 125 when the daemon is gone already, 127 when exec fails."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
        os._exit(NOT_OURS)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard == resource.RLIM_INFINITY or hard >= STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))
    try:
        os.execv(program[0], program)
    except OSError as exc:
        os.write(2, f"cannot run {program[0]}: {exc.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
