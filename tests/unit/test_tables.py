"""Tables: the same facts drawn on a terminal and as plain columns in a pipe; nothing in them commands a terminal."""

import io
import re
import sys
from collections.abc import Callable

import click
import pytest

from supervisor.cli import output, tables
from supervisor.cli.tables import Cell, Column, Row

COLUMNS = (Column("Name"), Column("Size", right=True), Column("Note"))
ROWS = [
    Row(("demo", "12 MiB", ""), [Cell("it  is\nso", "red")]),
    Row((Cell("a-longer-name", "green"), "1.0 GiB", "two words")),
]


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], io.StringIO]:
    """Called in the test itself: pytest puts its own stdout in place just before."""

    def become() -> io.StringIO:
        out = _Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return out

    return become


def test_plain_columns_are_two_spaces_apart_and_every_line_has_all() -> None:
    lines = list(tables.plain(COLUMNS, ROWS))
    assert [output.unstyled(line) for line in lines] == [
        "NAME              SIZE  NOTE",
        "demo            12 MiB  -",
        "    it is so",
        "a-longer-name  1.0 GiB  two words",
    ]
    rows = [line for line in lines if not output.unstyled(line).startswith("    ")]
    assert {len(re.split(r" {2,}", line)) for line in rows} == {3}


def test_a_cell_cannot_command_the_terminal_or_make_another_column() -> None:
    (_, line) = tables.plain((Column("A"), Column("B")), [Row(("x\x1b[2J\x07  y\u202ez", "b"))])
    assert re.split(r" {2,}", line) == [r"x\x1b[2J\x07 y\u202ez", "b"]


def test_a_pipe_gets_no_rich(capsys: pytest.CaptureFixture[str]) -> None:
    assert not tables.drawn()
    tables.show(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert out.splitlines() == [output.unstyled(line) for line in tables.plain(COLUMNS, ROWS)]


def test_a_terminal_gets_a_drawn_table_with_its_notes(terminal: Callable[[], io.StringIO]) -> None:
    out = terminal()
    tables.show(COLUMNS, ROWS)
    shown = out.getvalue()
    assert "╭" in shown
    text = click.unstyle(shown)
    for part in ("Name", "demo", "12 MiB", "a-longer-name", "two words", "demo: it is so"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 60


def test_what_looks_like_markup_is_shown_as_it_is(terminal: Callable[[], io.StringIO]) -> None:
    out = terminal()
    tables.show(COLUMNS, [Row(("[bold]x[/bold]", "\x1b[31mred", "-"))])
    assert "[bold]x[/bold]" in out.getvalue()
    assert "\x1b[31mred" not in out.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_text_alone_gets_it(
    name: str, value: str, terminal: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = terminal()
    assert tables.drawn()
    monkeypatch.setenv(name, value)
    assert not tables.drawn()
    tables.show(COLUMNS, [Row(("demo", "1", "x"))])
    assert "╭" not in out.getvalue()


def test_a_long_line_goes_on_below_itself_on_a_terminal_only(
    terminal: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal()
    line = "  what: " + "word " * 30
    lines = tables.wrapped(line, hang=8).splitlines()
    assert len(lines) > 2
    assert all(len(one) <= 60 for one in lines)
    assert all(one.startswith("        word") for one in lines[1:])
    monkeypatch.setenv("NO_COLOR", "1")
    assert tables.wrapped(line, hang=8) == line
