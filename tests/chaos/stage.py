"""What a fault is played on: the daemon, its clients, and the means to see what came of it."""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from supervisor.errors import LlmsupError
from tests.chaos.load import Clients
from tests.chaos.report import Footprint, Leaks, leaks
from tests.support.daemon import DaemonUnderTest, until

RECOVERY_LIMIT_S = 60.0
POLL_S = 0.005
WARM_S = 3.0  # under load, until everything that is made on first use has been made
IDLE_S = 6.0  # idle connections to the child are closed after 4 s
GONE_S = 2.0  # nothing may outlive a daemon by more (FAULTS 23)
WORD_S = 15.0  # until the status tells of something


class Late(Exception):
    """The fault came too late to bite: nothing is proved, and nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``rows`` of FAULTS.md; ``limit``: how often in a run (None: any); ``lacking``: why not here, or ""."""

    name: str
    rows: tuple[int, ...]
    act: Callable[["Stage"], None]
    limit: int | None = None
    lacking: Callable[["Stage"], str] = lambda _: ""


class Stage:
    """``model_path`` and ``binary_path`` are the run's own, to be spoilt; ``cgroup``: what the daemons live in, if
    there can be one; ``small_disk``: whether the state folder is one.
    """

    def __init__(
        self,
        daemon: DaemonUnderTest,
        clients: Clients,
        *,
        child_port: int,
        model_path: Path,
        binary_path: Path,
        start: Callable[[], None],
        cgroup: Path | None,
        small_disk: bool,
    ) -> None:
        self.daemon = daemon
        self.clients = clients
        self.child_port = child_port
        self.model_path = model_path
        self.binary_path = binary_path
        self.start = start
        self.cgroup = cgroup
        self.small_disk = small_disk
        self.dice = random.Random()
        self.fault = ""
        self.began = time.monotonic()
        self.recoveries: defaultdict[str, list[float]] = defaultdict(list)
        self.unexpected: list[str] = []
        self.lives: list[tuple[Footprint, Footprint]] = []
        self.leaked: list[Leaks] = []
        self._born: Footprint | None = None

    def play(self, fault: Fault, seed: int) -> None:
        """One fault, to its end: READY again.

        Raises:
            AssertionError: it is not READY again in time; there is no going on.
        """
        self.fault, self.dice = fault.name, random.Random(seed)
        self.clients.fault = fault.name
        try:
            fault.act(self)
        except (AssertionError, OSError, LlmsupError, psutil.Error) as exc:
            self.expect(False, f"{type(exc).__name__}: {exc}")
        self.generation()

    def expect(self, holds: bool, what: str) -> None:
        """The run goes on either way, and fails at its end."""
        if not holds:
            self.unexpected.append(f"at {time.monotonic() - self.began:.1f} s, {self.fault}: {what}")

    # ---- looking

    def model(self) -> dict[str, Any]:
        """Waits where the control socket is not there just now: it comes back within ten seconds."""
        return until(self._look, "the status", RECOVERY_LIMIT_S)[0]

    def _look(self) -> list[dict[str, Any]]:
        with contextlib.suppress(LlmsupError):
            return [self.daemon.model()]
        return []

    def generation(self) -> int:
        """The one that is READY; waits for it."""
        return int(self.await_state("READY")["generation"])

    def await_state(self, state: str, within_s: float = RECOVERY_LIMIT_S) -> dict[str, Any]:
        return self.await_that(lambda model: model["state"] == state, state, within_s)

    def await_that(
        self, holds: Callable[[dict[str, Any]], object], what: str, within_s: float = WORD_S
    ) -> dict[str, Any]:
        """The model's status, once that is true of it."""
        deadline = time.monotonic() + within_s
        while not holds(model := self.model()):
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}; last seen: {model}"
            time.sleep(POLL_S)
        return model

    def await_next(self, generation: int) -> dict[str, Any]:
        """READY in a later generation."""
        return self.await_that(
            lambda model: model["state"] == "READY" and model["generation"] > generation,
            f"READY after generation {generation}",
            RECOVERY_LIMIT_S,
        )

    def await_status(self, holds: Callable[[dict[str, Any]], object], what: str) -> None:
        """Once that is true of the whole status."""

        def seen() -> bool:
            with contextlib.suppress(LlmsupError):
                return bool(holds(self.daemon.status()))
            return False

        until(seen, what, WORD_S)

    def expect_cause(self, *causes: str) -> None:
        """Of the newest death."""
        death = self.model()["last_death"]
        self.expect(death is not None and death["cause"] in causes, f"{' or '.join(causes)}, not {death}")

    @property
    def process(self) -> psutil.Process:
        """The daemon's."""
        assert self.daemon.process is not None
        return psutil.Process(self.daemon.process.pid)

    def next_child(self, old: int) -> psutil.Process:
        """The llama-server that is made after ``old`` died, seen within a millisecond of its birth."""
        daemon = self.process.pid
        listed = Path(f"/proc/{daemon}/task/{daemon}/children")

        def born() -> list[psutil.Process]:
            for pid in map(int, listed.read_text().split()):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if pid != old and "--port" in process.cmdline():
                        return [process]
            return []

        deadline = time.monotonic() + RECOVERY_LIMIT_S
        while not (found := born()):
            assert time.monotonic() < deadline, "no new child in time"
        return found[0]

    # ---- doing

    @contextmanager
    def recovery(self) -> Iterator[None]:
        """From the fault to the next READY, which is in the block too."""
        begun = time.monotonic()
        yield
        self.recoveries[self.fault].append(time.monotonic() - begun)

    def step_in(self) -> None:
        """As an operator would: five unstable runs in a row are a crash loop, by design."""
        done = self.daemon.cli("restart")
        self.expect(done.returncode == 0, f"llmsup restart: {done.returncode} {done.stderr}")

    # ---- the daemon's lives

    def footprint(self) -> Footprint:
        process = self.process
        return Footprint(
            rss_bytes=process.memory_info().rss,
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            children=len(self.daemon.children_alive()),
        )

    def begin_life(self) -> None:
        time.sleep(WARM_S)
        self._born = self.footprint()

    def _expect_invariants(self) -> None:
        """What must hold after every fault (`tests.support.invariants`); they need calm."""
        assert self.daemon.baseline is not None
        self.fault = "the end"
        try:
            self.daemon.baseline.check(self.daemon)
        except AssertionError as exc:
            self.expect(False, str(exc))

    def end_life(self, *, busy: bool) -> None:
        """Count what has grown since `begin_life`. ``busy``: clients are still at it."""
        assert self._born is not None
        now, requests = self.footprint(), 0
        if not busy:
            self._expect_invariants()
            left = self.daemon.status()["requests"]
            requests = left["in_flight"] + left["queued"]
        # A client has a connection of its own and one to the child.
        part = leaks(self._born, now, requests=requests, busy=2 * self.clients.number if busy else 0)
        self.lives.append((self._born, now))
        self.leaked.append(part)
