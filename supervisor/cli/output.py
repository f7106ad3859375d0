"""All that verbs print goes out here: nothing in it commands the terminal but our own colours.

What is printed holds the words of clients, models, their files and llama-server. Which escape sequences are ours cannot
be told from looking at a text, so `style` writes them with a mark that nobody else can know: a number drawn once in each
process. `echo` turns marked ones into colours, and shows every other control as ``\\x1b`` (`printable`). In a pipe it is
the same, without colours: what is in it often ends on a terminal all the same.
"""

import functools
import os
import re

import click

from supervisor.cli import streams
from supervisor.printable import UNSAFE, escaped

MARK_BYTES = 4  # guessed within one run of a command, in a text that was written before it
CLEAR_LINE = "\r\x1b[K"


@functools.cache
def _mark() -> str:
    return f"\x1b{os.urandom(MARK_BYTES).hex()}"


@functools.cache
def _marked_or_unsafe() -> re.Pattern[str]:
    return re.compile(rf"{_mark()}(?P<ours>\[[0-9;]*m)|{UNSAFE.pattern}")


def style(
    text: str,
    fg: str | None = None,
    *,
    bold: bool | None = None,
    dim: bool | None = None,
    reverse: bool | None = None,
) -> str:
    """``text``, to be printed by `echo` in that colour of click's."""
    if not (fg or bold or dim or reverse):
        return text
    before, after = click.style("\0", fg=fg, bold=bold, dim=dim, reverse=reverse).split("\0")
    return f"{_marked(before)}{text}{_marked(after)}"


def _marked(sequences: str) -> str:
    return sequences.replace("\x1b", _mark())


def painted(text: str) -> str:
    """With our own colours, and nothing else that a terminal obeys."""
    return _marked_or_unsafe().sub(
        lambda found: f"\x1b{found['ours']}" if found["ours"] else escaped(found[0]), text
    )


def unstyled(text: str) -> str:
    """Without our own colours."""
    return re.sub(rf"{_mark()}\[[0-9;]*m", "", text)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text of one or more lines. Colours go to terminals only, and not where they are unwanted."""
    click.echo(painted(text), err=err, nl=nl, color=False if streams.colourless() else None)


def spin(text: str) -> None:
    """Put ``text`` in the place of the last line of stderr, which is a terminal."""
    click.echo(f"\r{painted(text)}", err=True, nl=False)


def clear() -> None:
    """Take away what `spin` wrote."""
    click.echo(CLEAR_LINE, err=True, nl=False)
