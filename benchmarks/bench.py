"""Measures llmsup beside other proxies and beside none at all, in one run. How to read it: benchmarks/README.md.

python -m benchmarks.bench [--quick] [--rounds N] [--seconds S] [--only NAMES] [--no-memory] [--llama-swap PATH]
                           [--json PATH] [--profile SCENARIO]
"""

import argparse
import datetime as dt
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file
    sys.path.insert(0, str(ROOT))

from benchmarks import build, measure, memory, profiling, report  # noqa: E402  (the path comes first)
from benchmarks.others import start_litellm, start_llama_swap  # noqa: E402
from benchmarks.peers import (  # noqa: E402
    WITHOUT_LIMITS,
    Llmsup,
    Peer,
    start_haproxy,
    start_llmsup,
    start_nginx,
    start_upstream,
)
from benchmarks.processes import Processes, StartError  # noqa: E402

# Four peers and 13 scenarios: 52 runs a round, each with 0.35 s of warm-up and settling; then memory, a minute a proxy.
QUICK = (2, 0.6)  # rounds, seconds: about two minutes
FULL = (5, 1.5)  # about ten


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="llmsup beside other proxies and none")
    parser.add_argument("--quick", action="store_true", help="about three minutes instead of twelve")
    parser.add_argument("--rounds", type=int, help="how often each measurement is repeated")
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    parser.add_argument("--json", type=Path, help="where to put the figures (default: benchmarks/results/)")
    parser.add_argument("--only", default="", help="peers besides direct and llmsup, by comma (default: all)")
    parser.add_argument("--llama-swap", type=Path, metavar="PATH", help="its binary, to be compared with")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory and growth")
    parser.add_argument(
        "--profile",
        choices=[scenario.name for scenario in measure.SCENARIOS],
        help="instead of all that: where llmsup's time goes in one scenario",
    )
    # For a proxy that somebody else has started in front of --upstream-port: takes llmsup's place.
    parser.add_argument("--proxy-port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--proxy-pid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream-port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    rounds, seconds = QUICK if options.quick else FULL
    options.rounds = rounds if options.rounds is None else max(1, options.rounds)
    options.seconds = seconds if options.seconds is None else max(0.2, options.seconds)
    return options


def main(argv: list[str] | None = None) -> int:
    """0 when llmsup was measured without a failed run, else 1 (2: nothing could be measured)."""
    options = parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        upstream, loadgen = build.program("upstream"), build.program("loadgen")
    except build.BuildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if options.profile:
        return profiled(upstream, loadgen, options)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="llmsup-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        missing: dict[str, str] = {}
        try:
            peers = start_peers(stack, folder, upstream, options, missing)
        except StartError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        results, interrupted, facts = run(peers, missing, loadgen, options)
    # All are ended: memory is measured on fresh ones.
    held: dict[str, measure.Values] = {}
    if not (interrupted or options.no_memory):
        names = [peer.name for peer in peers if peer.name in {"nginx", "haproxy", "llmsup"}]
        marks = memory.QUICK_MARKS if options.quick else memory.MARKS
        try:
            held = memory.measure(names, upstream, loadgen, marks, tell)
        except (StartError, measure.LoadError) as error:
            results.failures.append(f"memory of nginx, haproxy or llmsup: {error}")
        except KeyboardInterrupt:
            interrupted = True
    tell("")
    return told(results, held, facts, missing, options, interrupted=interrupted)


def profiled(upstream: Path, loadgen: Path, options: argparse.Namespace) -> int:
    try:
        print(profiling.run(upstream, loadgen, options.profile))
    except (StartError, measure.LoadError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def start_peers(
    stack: ExitStack, folder: Path, upstream: Path, options: argparse.Namespace, missing: dict[str, str]
) -> list[Peer]:
    """Everyone who can be had, the upstream first; who is `missing` and why is noted there.

    All of them use the upstream that llmsup started as its child, unless llmsup is missing.
    """
    # The sweep is entered first and so left last: it runs after the daemon has been ended.
    sweep = stack.enter_context(ExitStack())
    processes = stack.enter_context(Processes(folder))
    llmsup: Llmsup | None = None
    if options.proxy_port:
        missing["llmsup"] = "a stand-in takes its place"
    else:
        try:
            llmsup = start_llmsup(processes, folder, upstream)
            sweep.callback(llmsup.sweep)
        except StartError as error:
            missing["llmsup"] = str(error)
    port = llmsup.upstream_port if llmsup else start_upstream(processes, upstream, options.upstream_port)
    peers = [Peer("direct", port, port)]
    starts: dict[str, Callable[[], Peer]] = {
        "nginx": lambda: start_nginx(processes, folder, port),
        "haproxy": lambda: start_haproxy(processes, folder, port),
        "litellm": lambda: start_litellm(processes, folder, port),
    }

    def without_limits() -> Peer:
        free = start_llmsup(processes, folder, upstream, name=WITHOUT_LIMITS)
        sweep.callback(free.sweep)
        return free.peer

    if llmsup:
        starts[WITHOUT_LIMITS] = without_limits
    if options.llama_swap:
        starts["llama-swap"] = lambda: start_llama_swap(processes, folder, options.llama_swap, upstream)
    wanted = options.only.split(",") if options.only else starts
    for name in [name for name in starts if name in wanted]:
        tell(f"starting {name}")
        try:
            peers.append(starts[name]())
        except StartError as error:
            missing[name] = str(error)
    if llmsup:
        peers.append(llmsup.peer)
    if options.proxy_port:
        pids = [options.proxy_pid] if options.proxy_pid else []
        peers.append(Peer("stand-in", options.proxy_port, port, pids))
    return peers


def run(
    peers: list[Peer], missing: dict[str, str], loadgen: Path, options: argparse.Namespace
) -> tuple[measure.Results, bool, report.Machine]:
    """The rounds; whether they were interrupted."""
    facts = report.machine(describe(peers, missing))
    results, interrupted = measure.Results(), False
    try:
        for so_far in measure.measure(loadgen, peers, options.rounds, options.seconds, tell):
            results = so_far
    except KeyboardInterrupt:
        interrupted = True
    return results, interrupted, facts


def told(
    results: measure.Results,
    held: dict[str, measure.Values],
    facts: report.Machine,
    missing: dict[str, str],
    options: argparse.Namespace,
    *,
    interrupted: bool,
) -> int:
    """Show everything and keep it; the exit code."""
    if not results.values:
        print("bench: interrupted before the first round was complete", file=sys.stderr)
        return 130
    summary = results.summary()
    notes = [f"missing: {name} ({why})" for name, why in missing.items()]
    notes += [f"failed: {failure}" for failure in results.failures]
    if facts.load_average_1m > facts.cores / 2:
        notes.append(
            f"busy machine: load {facts.load_average_1m:.1f} on {facts.cores} cores; look at ratios only"
        )
    notes += ["interrupted: fewer measurements than asked for"] if interrupted else []
    report.show(summary, held, facts, notes)
    now = dt.datetime.now().astimezone()
    path = options.json or ROOT / "benchmarks" / "results" / f"bench-{now:%Y-%m-%dT%H%M%S}.json"
    detail: dict[str, object] = {
        "date": now.isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "interrupted": interrupted,
        "missing": missing,
        "failures": results.failures,
        "shared_upstream": "llmsup" not in missing,
        "memory": held,
        "runs": results.values,
    }
    report.save(path, summary, facts, detail)
    print(f"\nfigures: {path}")
    ours = [failure for failure in results.failures if "llmsup" in failure]
    return 130 if interrupted else int("llmsup" in missing or bool(ours))


def describe(peers: list[Peer], missing: dict[str, str]) -> dict[str, str]:
    """Each peer's version or process, for the record."""
    told: dict[str, str] = {}
    for peer in peers:
        pids = f", pids {' '.join(map(str, peer.pids))}" if peer.pids else ""
        told[peer.name] = f"{peer.version or '-'}, port {peer.port}{pids}"
    if "llmsup" in missing:
        told["direct"] += " (an upstream of its own: llmsup is not there to share its child)"
    return told


def tell(text: str) -> None:
    """One line of progress that replaces itself; silent when nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
