"""What an operator would see while it is attacked: states of the model, restarts, doors closed, size of the daemon."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from tests.chaos.report import Footprint
from tests.support.daemon import DaemonUnderTest

EVERY_S = 0.1
SILENT_S = 2.0  # `status` answers sooner, whatever else happens
BAD = frozenset({"FAILED", "CRASHLOOP", "UNKILLABLE"})


class Watch:
    """Looks until stopped. ``restarts_s``: how long the model was not READY, each time; ``deadly``: clients in whose
    requests llama-server dies of a segmentation fault, for the poison of today's is found in time.
    """

    def __init__(self, daemon: DaemonUnderTest, deadly: Collection[str] = ()) -> None:
        self._deadly = frozenset(deadly)
        self.wrong: list[str] = []
        self.restarts_s: list[float] = []
        self.slowest_s = 0.0
        self._daemon = daemon
        self._began = time.monotonic()
        self._since: float | None = None
        self._bad = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Away still: that counts too."""
        self._stop.set()
        self._thread.join()
        if self._since is not None:
            self.restarts_s.append(time.monotonic() - self._since)

    def _look_on(self) -> None:
        while not self._stop.wait(EVERY_S):
            begun = time.monotonic()
            try:
                model: dict[str, Any] = self._daemon.model()
                if self._deadly and model["state"] == "READY":
                    self._poison(model["pid"])
            except LlmsupError as exc:
                self.wrong.append(f"at {begun - self._began:.1f} s: no status: {exc}")
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            self._note(model, begun)

    def _poison(self, pid: int) -> None:
        rows = ControlClient(self._daemon.run_dir).get("/requests")["requests"]
        if any(row["client"] in self._deadly and row["phase"] != "waiting" for row in rows):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSEGV)

    def _note(self, model: dict[str, Any], now: float) -> None:
        state = model["state"]
        bad = state if state in BAD else ""
        if bad and bad != self._bad:
            self.wrong.append(
                f"at {now - self._began:.1f} s: the model is {state}: {model['last_death']['cause']}"
            )
        self._bad = bad
        if state != "READY" and self._since is None:
            self._since = now
        if state == "READY" and self._since is not None:
            self.restarts_s.append(now - self._since)
            self._since = None


def footprint(daemon: DaemonUnderTest) -> Footprint:
    process = psutil.Process(daemon.pid)
    return Footprint(
        rss_bytes=process.memory_info().rss,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        children=len(daemon.children_alive()),
    )


def peak_bytes(pid: int) -> int:
    """The most memory the process ever had; 0 where the kernel does not say."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
