"""Standard streams that whoever started us has closed."""

import contextlib
import os
import sys


def fill() -> None:
    """Put /dev/null in their place: what is opened next must not be taken for one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    # For the life of the process, so there is nothing to close.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def settle() -> None:
    """Write what is left. Where that fails it has been said, and must not be tried again by the interpreter's end,
    which would say it in its own words and change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
