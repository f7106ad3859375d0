"""A terminal taken over and given back: the alternate screen, keys without Enter, changes of size, Ctrl-Z.

Plain ANSI: what a library for full screens would cost a second is more than all else `top` does. Only lines that have
changed are written.
"""

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

from supervisor.cli import output, streams
from supervisor.cli.frame import Line

# The alternate screen, the cursor hidden, no wrapping; and back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
ARROWS = {b"\x1b[A": "k", b"\x1b[B": "j", b"\x1bOA": "k", b"\x1bOB": "j"}
PAGES = {b"\x1b[5~": "page up", b"\x1b[6~": "page down"}
ENDED = "end"  # as a key: the terminal is gone
DEADLY = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """For stdin and stdout on a terminal. However the block is left, the terminal is as it was."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._shown: list[str] = []
        self._handlers: dict[int, Any] = {}
        self._woken: tuple[int, int] = (-1, -1)

    def __enter__(self) -> Self:
        self._woken = os.pipe()
        for fd in self._woken:
            os.set_blocking(fd, False)
        handlers = {signal.SIGWINCH: self._resized, signal.SIGTSTP: self._suspend} | dict.fromkeys(
            DEADLY, _end
        )
        self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.set_wakeup_fd(self._woken[1], warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(self, *failure: object) -> None:
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for fd in self._woken:
            os.close(fd)

    # ---- the terminal

    def _take(self) -> None:
        if self._in is not None:
            self._before = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSANOW)
        self._shown = []
        self._write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # it may be gone
            if self._in is not None and self._before is not None:
                termios.tcsetattr(self._in, termios.TCSANOW, self._before)
            self._write(LEAVE)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def _resized(self, number: int, frame: FrameType | None) -> None:
        """The wakeup descriptor says it."""
        self._shown = []

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell has its terminal until we are continued."""
        self._give_back()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)
        self._take()

    # ---- what is on it

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def draw(self, lines: Sequence[Line]) -> None:
        fresh = [output.painted(styled(line)) for line in lines]
        before = self._shown if len(self._shown) == len(fresh) else []
        pieces = [] if before else ["\x1b[2J"]
        for number, text in enumerate(fresh):
            if not before or before[number] != text:
                pieces.append(f"\x1b[{number + 1};1H{text}\x1b[K")
        self._shown = fresh
        if pieces:
            self._write("".join(pieces))

    def key(self, timeout_s: float | None) -> str:
        """A key's name; "": time is up, or the terminal has another size."""
        sources = [self._woken[0]] + ([self._in] if self._in is not None else [])
        ready = select.select(sources, [], [], timeout_s)[0]
        if self._woken[0] in ready:
            os.read(self._woken[0], 1024)
        if self._in is None or self._in not in ready:
            return ""
        try:
            data = os.read(self._in, 32)
        except OSError:
            return ENDED
        if not data:
            return ENDED
        return ARROWS.get(data) or PAGES.get(data) or data[:1].decode("ascii", "replace")


def styled(line: Line) -> str:
    if streams.colourless():
        return line.text
    if line.colour is None and not line.bold and not line.marked:
        return line.text
    return output.style(line.text, fg=line.colour, bold=line.bold or None, reverse=line.marked or None)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
