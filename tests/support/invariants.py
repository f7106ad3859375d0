"""What must hold after every fault: `Baseline.check` while the daemon lives, `check_state_files` after its end.

At most one tree of processes for each instance, and no zombie; no request that has not ended; `status` in under a
second; descriptors, threads and memory as before; state files that parse. That nothing outlives the daemon is
looked at by `DaemonUnderTest` itself.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from supervisor.proc import deaths, leftovers
from supervisor.proc.children import home_of, model_of
from supervisor.proc.command import MARKER

if TYPE_CHECKING:
    from tests.support.daemon import DaemonUnderTest

STATUS_S = 1.0
TRIES = 3  # of a machine that may have other things to do
SETTLE_S = 12.0  # idle connections to a child are closed after 4 s; orphans that ended by themselves are reaped each 10 s
POLL_S = 0.02
SPARE_FDS = 6  # a probe and a command under way, each with a socket and what it needs
FDS_OF_A_MODEL = 3
SPARE_THREADS = 8  # those of the loop's executor come on demand, and stay
SPARE_BYTES = 64 << 20  # for a queue of log lines; a leak shows in `tests.chaos.soak`


@dataclass(frozen=True, slots=True)
class Baseline:
    """The daemon's size at a moment of calm."""

    pid: int
    fds: int
    threads: int
    rss_bytes: int

    @classmethod
    def of(cls, daemon: "DaemonUnderTest") -> "Baseline":
        process = psutil.Process(daemon.pid)
        size = process.memory_info().rss
        return cls(process.pid, process.num_fds(), process.num_threads(), size)

    def check(self, daemon: "DaemonUnderTest") -> None:
        """Waits until all is calm; AssertionError with what is not."""
        assert min(_status_s(daemon) for _ in range(TRIES)) < STATUS_S, "status is slow"
        process = psutil.Process(self.pid)
        # The other models may have come up since, each with its pipe, its exit watch and its connections.
        models = daemon.status()["models"]
        fds = self.fds + SPARE_FDS + sum(model["slots"]["total"] + FDS_OF_A_MODEL for model in models)
        threads = self.threads + SPARE_THREADS + len(models)
        _settled(lambda: _unfinished(daemon), "requests have not ended")
        _settled(lambda: _trees(daemon), "not one tree for each instance")
        _settled(lambda: _zombies(process), "zombies")
        _settled(lambda: _more(process.num_fds(), fds), "descriptors")
        _settled(lambda: _more(process.num_threads(), threads), "threads")
        _settled(lambda: _more(process.memory_info().rss, self.rss_bytes + SPARE_BYTES), "memory")


def _settled(wrong: Callable[[], str], what: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    while found := wrong():
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(POLL_S)


def _more(now: int, most: int) -> str:
    return f"{now}, at most {most}" if now > most else ""


def _status_s(daemon: "DaemonUnderTest") -> float:
    begun = time.monotonic()
    daemon.status()
    return time.monotonic() - begun


def _unfinished(daemon: "DaemonUnderTest") -> str:
    """Requests that nobody waits for any more, and leases that nobody holds."""
    now = daemon.status()
    waiting = {name: now["requests"][name] for name in ("in_flight", "queued") if now["requests"][name]}
    leases = {model["name"]: busy for model in now["models"] if (busy := model["slots"]["busy"])}
    return f"{waiting or ''}{leases or ''}"


def _trees(daemon: "DaemonUnderTest") -> str:
    """Instances of which processes of more than one generation live."""
    generations: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    home = home_of(daemon.run_dir.path)
    for process in daemon.alive():
        try:
            marker = process.environ().get(MARKER, "")
        except psutil.Error:
            continue
        if marker.startswith(f"{home}:"):
            generations[model_of(marker)][marker].append(process.pid)
    return "; ".join(f"{model}: {dict(found)}" for model, found in generations.items() if len(found) > 1)


def _zombies(daemon: psutil.Process) -> str:
    found = []
    for child in daemon.children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return str(found or "")


def check_state_files(daemon: "DaemonUnderTest") -> None:
    """After the end: what is on the disk is whole, and no half-written file is taken for one."""
    path = daemon.state_dir / deaths.FILE_NAME
    if path.exists():
        _, wrong = deaths.read(path)
        assert not wrong, wrong
    children = daemon.run_dir.path / leftovers.FILE_NAME
    if children.exists() and os.path.getsize(children):
        assert json.loads(children.read_text())["schema"] == leftovers.SCHEMA
