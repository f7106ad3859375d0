"""A real redis-server of the test's own: a free loopback port, a folder that goes with it, an end by pid.

with RedisServer() as redis:
    redis.url                       # redis://127.0.0.1:20123/0
    redis.kill(); redis.start()     # the same port, nothing kept
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Self

import pytest
import redis

from supervisor.tls import CertificateFiles
from tests.support.daemon import free_port

START_S = 10.0
TRIES = 5  # of another port, when somebody was faster
COMMAND = "redis-server"


class RedisServer:
    """``tls``: it speaks that only, and shows this certificate; ``options``: directives, e.g. ``requirepass="secret"``."""

    def __init__(self, *, tls: CertificateFiles | None = None, **options: str) -> None:
        if shutil.which(COMMAND) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"no {COMMAND} on PATH")
            pytest.skip(f"no {COMMAND} on PATH")
        self.port = free_port()
        self.password = options.get("requirepass")
        self._tls = tls
        self._options = options
        self._folder = tempfile.mkdtemp(prefix="ls-redis-", dir="/tmp")
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer on {self.port}, {'up' if self._process else 'down'}>"

    def __enter__(self) -> Self:
        for _ in range(TRIES):
            with contextlib.suppress(OSError):
                self.start()
                return self
            self.port = free_port()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        scheme, trust = ("redis", "") if self._tls is None else ("rediss", f"?ssl_ca_certs={self._tls.cert}")
        return f"{scheme}://{login}127.0.0.1:{self.port}/0{trust}"

    def start(self) -> None:
        """It answers when this returns; OSError when it ended instead."""
        directives = {"bind": "127.0.0.1", "save": "", "dir": self._folder, **self._ports(), **self._options}
        arguments = [word for name, value in directives.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None:
                self._process = None
                raise OSError(f"{COMMAND} ended while it started on port {self.port}")
            assert time.monotonic() < deadline, f"{COMMAND} does not answer"
            time.sleep(0.01)

    def _ports(self) -> dict[str, str]:
        if self._tls is None:
            return {"port": str(self.port)}
        files = {"tls-cert-file": str(self._tls.cert), "tls-key-file": str(self._tls.key)}
        return {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no", **files}

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asked:
                if self._tls is not None:
                    return True
                asked.sendall(b"PING\r\n")
                return asked.recv(64)[:1] in {b"+", b"-"}
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, stopped or not; nothing is left of what it knew."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """It hangs: connections stay, no answer comes."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> "redis.Redis":
        """A connection of the test's own, to be closed (it is a context manager)."""
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)
