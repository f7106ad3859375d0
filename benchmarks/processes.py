"""Starting, watching and ending the processes of a benchmark; each is ended by its pid, whatever happens."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

STOP_S = 10.0  # from SIGTERM to SIGKILL
START_S = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A peer did not come up; the text says why."""


class Processes:
    """A context that leaves nothing running. Sessions of their own: Ctrl-C reaches us, and we end them in order."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them running; ending them is bounded by STOP_S each.
        handlers = {
            number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
        }
        for process in reversed(self._running):
            self.end(process)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def start(self, name: str, command: list[str], *, folder: Path | None = None) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        self._running.append(process)
        return process

    def log_path(self, name: str) -> Path:
        return self._log_folder / f"{name}.log"

    def last_words(self, name: str) -> str:
        """The last line it wrote."""
        lines = self.log_path(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def wait_for_http(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        port: int,
        *,
        path: str = "/health",
        within_s: float = START_S,
    ) -> None:
        """Return when ``GET path`` answers 200.

        :raises StartError: when it leaves first, or in time does not.
        """
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if process.poll() is not None:
                raise StartError(f"{name} left with {process.returncode}: {self.last_words(name)}")
            if health(port, path) == 200:
                return
            time.sleep(0.05)
        raise StartError(
            f"{name} did not answer on port {port} within {within_s:.0f} s: {self.last_words(name)}"
        )

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def health(port: int, path: str = "/health") -> int:
    """The status of ``GET path``; 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def upstream_counts(port: int) -> dict[str, int]:
    """What the upstream has been asked since its start: ``posts``, and how many of them as ``streams``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/bench")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return counts


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def kill_if_ours(pid: int, marker: str) -> None:
    """SIGKILL `pid` if its command line still names `marker`: pids are reused, and strangers are left alone."""
    try:
        if marker in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def children_of(pid: int) -> list[int]:
    """Direct children, from the parent field of every ``/proc/PID/stat``."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def tree_of(pid: int, without: int | None = None) -> list[int]:
    """`pid` and its descendants, leaving out `without` and below."""
    if pid == without:
        return []
    return [pid, *(below for child in children_of(pid) for below in tree_of(child, without))]


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of these processes, all threads, user and system.

    From schedstat (nanoseconds) where the kernel has it, else utime + stime of stat (10 ms steps).
    """
    return sum(_cpu_of(pid) for pid in pids)


def _cpu_of(pid: int) -> float:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, IndexError, ValueError):
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pids: list[int]) -> int:
    """Resident memory of these processes; shared pages count in each."""
    return sum(_rss_of(pid) for pid in pids)


def _rss_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
