"""The real llama-server by itself, without a daemon in front of it."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import rawhttp
from tests.support.daemon import free_port

READY_DEADLINE_S = 30.0


@contextmanager
def server(binary: Path, model: Path, *flags: str) -> Iterator[int]:
    """The port of a server that has become ready, killed at the end whatever happens."""
    port = free_port()
    process = subprocess.Popen(
        [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + READY_DEADLINE_S
        while not _healthy(port):
            assert process.poll() is None, "llama-server ended"
            assert time.monotonic() < deadline, "llama-server does not become ready"
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        return rawhttp.ask(port, "GET", "/health").status == 200
    except OSError:
        return False
