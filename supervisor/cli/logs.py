"""`llmsup logs [MODEL] [-f] [-n N]`: read from the file, so it works with and without a daemon."""

import codecs
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from supervisor import printable
from supervisor.cli import completing, context
from supervisor.errors import LlmsupError, NotFound

FOLLOW_S = 0.1
BLOCK = 64 * 1024
Write = Callable[[bytes], object]


@click.command("logs")
@click.argument("model", required=False, shell_complete=completing.models)
@click.option("-f", "--follow", is_flag=True, help="Go on printing, across restarts, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="So many of the last lines first; 0: none.",
)
@click.option("--daemon", is_flag=True, help="llmsup's own log instead of llama-server's.")
@click.option("--errors", is_flag=True, help="Of llmsup's own log the errors.")
def command(model: str | None, follow: bool, lines: int, daemon: bool, errors: bool) -> None:
    """Print llama-server's output (of the default model, or MODEL), with and without a running daemon.

    -f goes on over restarts of llama-server and of llmsup, and over rotated files; Ctrl-C ends it. On a terminal,
    controls are shown (\\x1b); a pipe or a file gets the bytes as they are.

    \b
    Examples:
      llmsup logs -n 200
      llmsup logs demo -f
      llmsup logs --daemon -f | grep warning
    """
    path = _path(model, daemon=daemon, errors=errors)
    if not path.exists() and not follow:
        raise LlmsupError(f"nothing has been logged yet ({path})", hint="is it running? llmsup status")
    write = _flushing(sys.stdout.buffer)
    if sys.stdout.isatty():
        write = _shown(write, sys.stdout.encoding or "utf-8")
    position = _print_tail(path, lines, write)
    if follow:
        try:
            _follow(path, position, write)
        except KeyboardInterrupt:
            return


def _flushing(out: BinaryIO) -> Write:
    def write(data: bytes) -> None:
        out.write(data)
        out.flush()

    return write


def _shown(write: Write, encoding: str) -> Write:
    """What llama-server says holds clients' bytes: those that would command the terminal are shown as text."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a character may come in two pieces

    def show(data: bytes) -> None:
        write(printable.lines(decoder.decode(data)).encode(encoding, "backslashreplace"))

    return show


def _reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more, before there is something to write."""
    look = select.poll()
    look.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))


def _path(model: str | None, *, daemon: bool, errors: bool) -> Path:
    from supervisor.observe.logging import ERRORS, GENERAL
    from supervisor.proc.run import log_path
    from supervisor.settings.load import load

    settings = load(context.config_path(), os.environ).settings
    if daemon or errors:
        return settings.log_dir / (ERRORS if errors else GENERAL)
    name = model or settings.default_model
    if name not in settings.models:
        raise NotFound(f"there is no model named {name!r}", hint=f"configured: {', '.join(settings.models)}")
    return log_path(settings.log_dir, name)


def _print_tail(path: Path, lines: int, write: Write) -> int:
    """Print the last lines; returns where the file ended. Reads from the end: the file may be large."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    data, start = b"", size
    with path.open("rb") as file:
        while start > 0 and data.count(b"\n") <= lines:
            start = max(0, start - BLOCK)
            file.seek(start)
            data = file.read(size - start)
    if lines:
        write(b"".join(data.splitlines(keepends=True)[-lines:]))
    return size


def _follow(path: Path, position: int, write: Write) -> None:
    """Print what is added; a file that was rotated away is read to its end before the new one."""
    file = None
    while True:
        if file is None:
            try:
                file = path.open("rb")
            except FileNotFoundError:
                if _reader_left():
                    return
                time.sleep(FOLLOW_S)
                continue
            file.seek(position)
        data = file.read(BLOCK)
        if data:
            write(data)
            continue
        if _reader_left():
            return
        if os.fstat(file.fileno()).st_size < file.tell():  # emptied in place: what it holds is new
            file.seek(0)
            continue
        try:
            same = os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = True  # between two names; look again
        if not same:
            while data := file.read(BLOCK):  # written between the last look and the rotation
                write(data)
            file.close()
            file, position = None, 0
            continue
        time.sleep(FOLLOW_S)
