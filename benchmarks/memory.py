"""What memory is for: nothing, requests and streams held open, and many requests one after the other.

Each figure comes from a process started for it: what an earlier load has left in its heap would hide the growth.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import LOADS, Values, generate
from benchmarks.peers import Peer, start_haproxy, start_llmsup, start_nginx, start_upstream
from benchmarks.processes import Processes, StartError, rss_bytes

HELD = 256
SETTLED_S = 2.0  # from ready to idle
REQUESTS_S = 4.0
STREAMS_S = (
    8.0  # at 50 events a second over 64 KiB each: what is kept for continuation was full once, and packed
)
WARM_S = 0.5
SAMPLE_S = 0.05
GROWTH_CONNECTIONS = 64
MARKS = (1_000, 10_000, 50_000, 100_000)
QUICK_MARKS = (1_000, 2_000, 5_000, 10_000)
GROWTH_LIMIT_S = 600.0
_PROXIES = {"nginx": start_nginx, "haproxy": start_haproxy}


def measure(
    names: list[str], upstream: Path, loadgen: Path, marks: tuple[int, ...], tell: Callable[[str], None]
) -> dict[str, Values]:
    """Bytes, by peer: ``idle``, ``request``, ``stream``, and ``after_N`` for the marks.

    :raises StartError: a peer that was there before is not any more.
    """
    found: dict[str, Values] = {}
    for name in names:
        tell(f"memory  {name}")
        values: Values = {}
        with fresh(name, upstream) as peer:
            time.sleep(SETTLED_S)
            values["idle"] = rss_bytes(peer.pids)
            waiting = ("-l", "60000000")
            values["request"] = _each(loadgen, "pass", peer, REQUESTS_S, *waiting)
        with fresh(name, upstream) as peer:
            time.sleep(SETTLED_S)
            values["stream"] = _each(loadgen, "sse", peer, STREAMS_S)
        tell(f"growth over {marks[-1]} requests  {name}")
        with fresh(name, upstream) as peer:
            time.sleep(SETTLED_S)
            values |= _growth(loadgen, peer, marks)
        found[name] = values
    return found


@contextmanager
def fresh(name: str, upstream: Path) -> Iterator[Peer]:
    """A peer of that name, just started, in front of an upstream of its own."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="llmsup-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sweep = stack.enter_context(ExitStack())
        processes = stack.enter_context(Processes(folder))
        if name == "llmsup":
            llmsup = start_llmsup(processes, folder, upstream)
            sweep.callback(llmsup.sweep)
            yield llmsup.peer
        else:
            yield _PROXIES[name](processes, folder, start_upstream(processes, upstream))


def _each(loadgen: Path, kind: str, peer: Peer, seconds: float, *more: str) -> float:
    """The peak while HELD of them are open, less what there was, for each: its two connections included."""
    command = [str(loadgen), *LOADS[kind], "-p", str(peer.port), "-c", str(HELD), "-d", str(seconds), *more]
    generate(loadgen, kind, peer.port, 1, WARM_S, 0.0)  # what only the first one costs is not each one's
    before = peak = rss_bytes(peer.pids)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            peak = max(peak, rss_bytes(peer.pids))
            time.sleep(SAMPLE_S)
    finally:
        process.kill()  # else it has ended
        process.wait()
    return (peak - before) / HELD


def _growth(loadgen: Path, peer: Peer, marks: tuple[int, ...]) -> Values:
    """Chats, assembled, every stage on."""
    values: Values = {}
    done = 0
    for mark in marks:
        raw = generate(
            loadgen, "chat", peer.port, GROWTH_CONNECTIONS, GROWTH_LIMIT_S, 0.0, "-n", str(mark - done)
        )
        done += raw["done"]
        if raw["errors"] or raw["not_200"] or done < mark:
            raise StartError(f"{peer.name} failed on the way to {mark} requests: {raw}")
        values[f"after_{mark}"] = rss_bytes(peer.pids)
    return values
