"""What `--help` says of each verb can be done: every example is parsed by the verb it calls."""

import re
import shlex
from collections.abc import Iterator
from inspect import cleandoc

import click
import pytest

from supervisor.cli.main import GROUPS, VERBS, grouped, root
from supervisor.settings import locate


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb and what is below it, by its words."""
    for verb in VERBS:
        command = root.get_command(click.Context(root), verb)
        assert command is not None
        yield verb, command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                yield f"{verb} {name}", inner


COMMANDS = dict(commands())
EVERY = pytest.mark.parametrize("words", COMMANDS)


def examples(command: click.Command) -> list[str]:
    _, found, rest = cleandoc(command.help or "").partition("\b\nExamples:\n")
    assert found, "no block of examples"
    return [line.strip() for line in rest.partition("\n\n")[0].splitlines()]


def calls(line: str) -> list[list[str]]:
    """The arguments of each `llmsup` in a line of shell."""
    line = re.sub(r"\s{3,}[a-z`;].*$", "", line)  # what is said about it
    line = line.replace('"$(', " ; ").replace("$(", " ; ").replace(")", " ")
    lexer = shlex.shlex(
        line.replace("eval ;", ";").rstrip('"') if "eval" in line else line,
        posix=True,
        punctuation_chars=True,
    )
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for token in lexer:
        if re.fullmatch(r"[|&;<>]+", token):
            parts.append([])
        else:
            parts[-1].append(token)
    return [part[part.index("llmsup") + 1 :] for part in parts if "llmsup" in part]


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """As click would, without doing it."""
    try:
        context = command.make_context("llmsup", list(arguments), parent=parent)
    except click.exceptions.Exit:  # --help
        return
    if isinstance(command, click.Group):
        _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None
        parse(inner, rest, context)


@EVERY
def test_a_verb_has_examples_that_can_be_typed(words: str) -> None:
    lines = examples(COMMANDS[words])
    assert len(lines) >= (1 if " " in words else 2), lines
    for line in lines:
        found = calls(line)
        assert found, line
        for arguments in found:
            parse(root, arguments)
    named = "doctor" if words == "diagnose" else words
    assert any(named in " ".join(call) for line in lines for call in calls(line))


@EVERY
def test_every_option_says_what_it_is(words: str) -> None:
    for parameter in COMMANDS[words].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.opts
            assert parameter.help[-1] in ".]", parameter.help


@pytest.mark.parametrize(("line", "wanted"), [
    ("llmsup stop --timeout 30 || llmsup stop --now", [["stop", "--timeout", "30"], ["stop", "--now"]]),
    ("NO_COLOR=1 llmsup status", [["status"]]),
    ("KEY=$(llmsup keys create a)", [["keys", "create", "a"]]),
    ("llmsup top      look", [["top"]]),
])  # fmt: skip
def test_the_lines_are_understood_as_a_shell_would(line: str, wanted: list[list[str]]) -> None:
    assert calls(line) == wanted


def test_an_option_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(root, ["status", "--nonesuch"])


def test_every_verb_stands_in_one_group() -> None:
    listed = [verb for verbs in grouped().values() for verb in verbs]
    assert sorted(listed) == sorted(VERBS)
    assert list(grouped()) == list(GROUPS)  # none is left over


def test_the_root_names_where_the_configuration_is_looked_for() -> None:
    text = root.get_help(click.Context(root, info_name="llmsup"))
    assert all(title + ":" in text for title in ("Run", "Look", "Change", "Set up", "Examples"))
    for place in ("$LLMSUP_CONFIG", str(locate.LOCAL_CONFIG), str(locate.SYSTEM_CONFIG)):
        assert place in " ".join(text.split())
    for verb, line in VERBS.items():
        assert f"{verb} " in text
        assert line.split(".")[0].split(",")[0][:20] in " ".join(text.split())
