"""`llmsup build`: fetch, verify and compile llama-server, with progress on stderr and the result on stdout."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import click

from supervisor.cli import output
from supervisor.printable import lines

if TYPE_CHECKING:
    import rich.progress

    from supervisor.proc.building.build import Built

LINE_EVERY_PERCENT = 5
LINE_EVERY_S = 15.0
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@click.command("build")
@click.option(
    "--backend",
    type=click.Choice(["cpu", "cuda", "vulkan", "metal"]),
    default="cpu",
    show_default=True,
    help="What computes.",
)
@click.option(
    "--source", type=click.Path(path_type=Path), help="Build this llama.cpp folder, not the pinned one."
)
@click.option("--jobs", type=click.IntRange(1), help="Compilers at once [default: by processors and memory].")
@click.option("--force", is_flag=True, help="Compile anew even when it is built already.")
@click.option("--print-path", is_flag=True, help="Print only the path of llama-server.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built, and its path, as JSON.")
def command(
    *, backend: str, source: Path | None, jobs: int | None, force: bool, print_path: bool, as_json: bool
) -> None:
    """Fetch, verify and build llama-server, once for all checkouts of this user.

    An interrupted build continues when run again. With --source, name the result in the configuration
    (llama_server.binary); the pinned build is found by itself.

    \b
    Examples:
      llmsup build
      llmsup build --backend cuda --jobs 8
      llmsup build --source ~/src/llama.cpp --print-path
    """
    if print_path and as_json:
        raise click.UsageError("--print-path and --json exclude each other")
    with _interruptible():
        built = _build(backend, source, jobs, force)
    output.echo(_report(built, named=source is not None, print_path=print_path, as_json=as_json))


def _build(backend: str, source_path: Path | None, jobs: int | None, force: bool) -> "Built":
    import os

    from supervisor.clock import SystemClock
    from supervisor.proc.building import build, fetch, folders, source
    from supervisor.proc.building.toolchain import Backend

    progress = Drawn() if sys.stderr.isatty() else Plain(sys.stderr)
    builder = build.Builder(
        clock=SystemClock(),
        progress=progress,
        fetch=fetch.with_pip,
        pin=source.PIN,
        cache=folders.cache_dir(),
        root=folders.project_root(),
        environ=os.environ,
    )
    with progress:
        return builder.build(build.Request(Backend(backend), source_path, jobs, force))


def _report(built: "Built", *, named: bool, print_path: bool, as_json: bool) -> str:
    record, path = built.item.record, str(built.item.server)
    if print_path:
        return path
    if as_json:
        import json

        return json.dumps(record.to_json() | {"path": path, "fresh": built.fresh}, indent=2)
    how = f"built in {duration(record.seconds)}" if built.fresh else "is built already"
    lines = [f"llama-server {record.version} ({record.backend}) {how}: {path}"]
    if named:
        lines.append(f"to use it, set in the configuration: llama_server: {{binary: {path}}}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`95` as `1 min 35 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the compilers, leave one line and exit with 130."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        output.echo("llmsup: build interrupted; what is compiled is kept: run it again to continue", err=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Plain:
    """Lines for logs and pipes: at most one for each 5 %, and one when 15 s brought no 5 %."""

    terminal = False

    def __init__(self, out: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now = now
        self._started = self._at = now()
        self._percent = 0

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing is held."""

    def say(self, text: str) -> None:
        self._started = self._at = self._now()
        self._percent = 0
        print(lines(text), file=self._out, flush=True)

    def step(self, done: int, total: int) -> None:
        percent = 100 * done // total
        now = self._now()
        far = percent >= self._percent + LINE_EVERY_PERCENT or (done == total and percent > self._percent)
        if far or now - self._at >= LINE_EVERY_S:
            self._percent, self._at = percent, now
            elapsed = duration(now - self._started)
            print(f"{percent:3d} % ({done}/{total}), {elapsed}", file=self._out, flush=True)


class Drawn:
    """A bar on a terminal, drawn from the first step on and wiped when the phase is over."""

    terminal = True

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: rich.progress.Progress | None = None
        self._phase = ""

    def __enter__(self) -> "Drawn":
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop()
        self._console.show_cursor()  # pip hides it, and an interrupted pip does not bring it back

    def say(self, text: str) -> None:
        self._stop()
        self._phase = text
        self._console.print(lines(text), markup=False)

    def step(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _start(self) -> "rich.progress.Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            expand=True,
        )
        bar.add_task(self._phase)
        bar.start()
        return bar

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
