"""What verbs print: our colours on a terminal, others' escapes as text, and no way round it."""

import ast
from pathlib import Path

import pytest

from supervisor.cli import output

CLI = Path(output.__file__).parent
# click's and Python's ways to the terminal; where one is used all the same, it writes only what is ours.
WAYS = {"echo", "secho", "style", "print", "echo_via_pager"}
ALLOWED = {
    ("output.py", "echo"),
    ("output.py", "style"),
    ("build.py", "print"),  # to a stream of its own, through `printable.lines` or of numbers alone
}


def test_our_colours_stay_and_others_escapes_are_shown() -> None:
    text = f"{output.style('READY', fg='green', bold=True)} \x1b[31mred\x1b[0m \x1b]0;t\x07\u202e"
    assert output.painted(text) == ("\x1b[32m\x1b[1mREADY\x1b[0m \\x1b[31mred\\x1b[0m \\x1b]0;t\\x07\\u202e")
    assert output.unstyled(output.style("x", fg="red")) == "x"
    assert output.style("x") == "x"


def test_what_is_inside_of_a_colour_is_shown_too() -> None:
    assert output.painted(output.style("a\x1b[2Jb", fg="red")) == "\x1b[31ma\\x1b[2Jb\x1b[0m"


def test_lines_and_tabs_stay() -> None:
    assert output.painted("a\n\tb") == "a\n\tb"


def test_a_pipe_gets_neither_colours_nor_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo(f"{output.style('x', fg='red')}\x9b31m\udcff")
    assert capsys.readouterr().out == "x\\x9b31m\\udcff\n"


def test_a_mark_is_of_one_process_only() -> None:
    first = output.style("x", fg="red")
    output._mark.cache_clear()
    output._marked_or_unsafe.cache_clear()
    assert "\x1b" not in output.painted(first)


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_every_verb_prints_through_this_one_place(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "print" or (called.startswith("click.") and called[6:] in WAYS):
            assert (path.name, called.removeprefix("click.")) in ALLOWED, (
                f"{path.name}:{node.lineno}: {called}"
            )
        assert not called.startswith(("sys.stdout.write", "sys.stderr.write")), f"{path.name}:{node.lineno}"
