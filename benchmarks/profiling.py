"""Where llmsup's time goes in one scenario: the daemon under cProfile, which makes it about three times slower."""

import io
import pstats
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import generate
from benchmarks.peers import start_llmsup
from benchmarks.processes import Processes, StartError

SECONDS = 5.0
SHOWN = 25


def run(upstream: Path, loadgen: Path, scenario: str) -> str:
    """The functions with most time of their own, heaviest first.

    Time is wall time between the calls of Python code: transports and parsers, in C, count where they are called.

    :raises StartError: no profile has come out of it.
    :raises LoadError: the load failed.
    """
    kind, _, connections = scenario.partition("-")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="llmsup-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = folder / "daemon.prof"
        with ExitStack() as sweep, Processes(folder) as processes:
            python = (sys.executable, "-m", "cProfile", "-o", str(found))
            llmsup = start_llmsup(processes, folder, upstream, python)
            sweep.callback(llmsup.sweep)
            raw = generate(loadgen, kind, llmsup.peer.port, int(connections), SECONDS, 0.0)
        if not found.exists():
            raise StartError("the daemon left no profile")
        out = io.StringIO()
        out.write(
            f"{scenario}: {raw['done']} requests, {raw['chunks_all']} chunks in {raw['seconds']:.1f} s\n"
        )
        pstats.Stats(str(found), stream=out).strip_dirs().sort_stats("tottime").print_stats(SHOWN)
        return out.getvalue()
