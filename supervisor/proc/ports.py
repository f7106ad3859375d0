"""Which port a child is told to listen on.

A port is free only until somebody takes it, so this is a good guess, never a promise: the child's
own refusal ("couldn't bind") is what counts, and it gets the next candidate.
"""

import errno
import socket
from collections.abc import Callable, Iterator
from itertools import islice

LOOPBACK = "127.0.0.1"
HIGHEST = 65535


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether the port could be bound just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As llama-server does: a port in TIME_WAIT is usable.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # SO_REUSEADDR lets bind succeed beside a bound socket that does not listen; listen tells.
            probe.listen(1)
        except OSError as exc:
            if exc.errno in {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL}:
                return False
            raise
        return True


def ephemeral(host: str = LOOPBACK) -> int:
    """A free port of the kernel's choice."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def candidates(
    configured: int, *, free: Callable[[int], bool] = is_free, any_free: Callable[[], int] = ephemeral
) -> Iterator[int]:
    """Ports to try, without end: the configured one and those after it, then the kernel's choice."""
    if configured:
        for port in range(configured, min(configured + 64, HIGHEST) + 1):
            if free(port):
                yield port
    while True:
        yield any_free()


def pick(configured: int, clashes: int = 0) -> int:
    """The port for the next generation: the configured one again, unless the child was refused it just now.

    Raises:
        OSError: no descriptor left to look with.
    """
    return next(islice(candidates(configured), clashes, None))
