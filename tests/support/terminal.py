"""A terminal of our own for a program under test: a pty, and a small screen that understands what full screens send."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

DEADLINE_S = 15.0
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Terminal:
    """Runs ``command`` on a pty. `screen` is what would be seen; ``alternate``: whether a full screen is open."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, columns: int = 80, lines: int = 24
    ) -> None:
        self.columns, self.lines = columns, lines
        self._ours, self._theirs = pty.openpty()  # theirs stays open: what the program left set can be seen
        self._size(columns, lines)
        self.settings = termios.tcgetattr(self._theirs)
        self.alternate, self.cursor_shown = False, True
        self.said = ""
        self._rest = ""
        self._rows = [[" "] * columns for _ in range(lines)]
        self._at = [0, 0]
        self.process = subprocess.Popen(
            command,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={"TERM": "xterm-256color"}
            | {k: v for k, v in environ.items() if k not in {"TERM", "NO_COLOR"}},
            preexec_fn=self._adopt,  # noqa: PLW1509  a controlling terminal can be had in the child only
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _adopt(self) -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self._rows = [[" "] * columns for _ in range(lines)]
        self._size(columns, lines)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    # ---- what it shows

    @property
    def screen(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self._rows)

    def until(self, condition: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
        deadline = time.monotonic() + within_s
        while not (value := condition()):
            assert time.monotonic() < deadline, (
                f"not within {within_s:g} s: {what}\n{self.screen}\n{self.said[-500:]!r}"
            )
            self.read()
        return value

    def until_shown(self, *texts: str) -> str:
        self.until(lambda: all(text in self.screen for text in texts), f"shown: {texts}")
        return self.screen

    def until_ended(self) -> int:
        self.until(lambda: self.process.poll() is not None, "the program's end")
        while self.read(0.05):
            pass
        return self.process.returncode

    def read(self, wait_s: float = 0.05) -> bool:
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        text = os.read(self._ours, 65536).decode("utf-8", "replace")
        self.said += text
        self._feed(self._rest + text)
        return True

    @property
    def restored(self) -> bool:
        """Whether the program has left the terminal as it was."""
        same = termios.tcgetattr(self._theirs)[:4] == self.settings[:4]
        return same and not self.alternate and self.cursor_shown

    def _feed(self, text: str) -> None:
        self._rest = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    self._rest = text[at:]
                    return
                self._obey(found[1], found[2])
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, letter: str) -> None:
        row, column = self._at
        if letter == "\n":
            self._at[0] = min(row + 1, self.lines - 1)
        elif letter == "\r":
            self._at[1] = 0
        elif row < self.lines and column < self.columns:
            self._rows[row][column] = letter
            self._at[1] += 1

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "H":
            row, _, column = (numbers or "1;1").partition(";")
            self._at = [int(row) - 1, int(column or 1) - 1]
        elif letter == "J":
            self._rows = [[" "] * self.columns for _ in range(self.lines)]
        elif letter == "K":
            row, column = self._at
            if row < self.lines:
                self._rows[row][column:] = [" "] * (self.columns - column)
        elif numbers == "?1049":
            self.alternate = letter == "h"
        elif numbers == "?25":
            self.cursor_shown = letter == "h"
