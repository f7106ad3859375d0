"""Standard streams: those that whoever started us has closed, and whether there are colours in them."""

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


def colourless() -> bool:
    """Whether the user or the terminal wants text alone (no-color.org)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
