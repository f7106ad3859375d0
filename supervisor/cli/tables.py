"""Tables: drawn by rich on a terminal; else plain columns with two spaces or more between them, for scripts.

rich costs tens of milliseconds of import, so only who looks at a terminal pays for it.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisor.cli import output, streams
from supervisor.printable import one_line

GAP = "  "  # between plain columns; no cell holds two spaces in a row
EMPTY = "-"  # for what there is not, so that a line has as many columns as the head
NOTE_INDENT = "    "
_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]+")


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False  # aligned, as numbers are


@dataclass(frozen=True, slots=True)
class Cell:
    """``colour``: of click, which are names that rich knows too."""

    text: str
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """``notes``: what else is to be said of it, one a line. The first cell names it."""

    cells: Sequence[str | Cell]
    notes: Sequence[Cell] = ()


def drawn() -> bool:
    """Whether tables are drawn by rich."""
    return sys.stdout.isatty() and not streams.colourless()


def show(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    if drawn():
        _draw(columns, rows)
        return
    for line in plain(columns, rows):
        output.echo(line)


def plain(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """The head, and each row with its notes below it."""
    texts = [[column.title.upper() for column in columns]]
    texts += [[_cell(cell).text or EMPTY for cell in row.cells] for row in rows]
    widths = [max(len(line[at]) for line in texts) for at in range(len(columns))]
    yield _line(columns, texts[0], widths)
    for row, line in zip(rows, texts[1:], strict=True):
        yield _line(columns, line, widths)
        for note in row.notes:
            yield output.style(f"{NOTE_INDENT}{clean(note.text)}", fg=note.colour)


def _line(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        text.rjust(width) if column.right else text.ljust(width)
        for column, text, width in zip(columns, texts, widths, strict=True)
    ]
    return GAP.join(parts).rstrip()


def _cell(cell: str | Cell) -> Cell:
    if isinstance(cell, Cell):
        return Cell(clean(cell.text), cell.colour)
    return Cell(clean(cell))


def clean(text: str) -> str:
    """On one line, with single spaces, and nothing that commands a terminal: it may be a client's word, or the child's."""
    return one_line(" ".join(_SPACES.split(text.strip(_SPACE))))


def wrapped(line: str, *, hang: int) -> str:
    """As it is shown: on a terminal a long line goes on ``hang`` columns in."""
    from shutil import get_terminal_size
    from textwrap import fill

    if not drawn() or len(output.unstyled(line)) <= (width := get_terminal_size().columns):
        return line
    return fill(line, max(width, 2 * hang), subsequent_indent=" " * hang, break_on_hyphens=False)


def _draw(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=box.ROUNDED, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        cells = [_cell(cell) for cell in row.cells]
        table.add_row(*(Text(cell.text or EMPTY, style=cell.colour or "") for cell in cells))
    console.print(table)
    for row in rows:
        for note in row.notes:
            told = Text(f"{_cell(row.cells[0]).text}: ", style="bold")
            console.print(told.append(clean(note.text), style=note.colour or "not bold"))
