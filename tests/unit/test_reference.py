"""docs/reference.md names everything that has a name. What is here is asked of the code, so that a new key, metric, event,
error, exit code, verb, option, route or header without a word about it fails. (STYLE 24)
"""

import ast
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import supervisor
from docs import make_reference
from supervisor.cli.main import VERBS, root
from supervisor.control import page
from supervisor.control.eventlog import KINDS
from supervisor.control.operations import OPERATIONS
from supervisor.control.streams import HEADERS, PASSING
from supervisor.errors import LlmsupError
from supervisor.keys import store
from supervisor.observe import logging
from supervisor.observe.metrics import FAMILIES
from supervisor.proc import deaths
from supervisor.proc.command import MARKER
from supervisor.proc.remedies import REMEDIES
from supervisor.proc.state import State
from supervisor.proxy import cached, ingress
from supervisor.proxy.cors import EXPOSED
from supervisor.settings.env import LOG_LEVEL, MODEL_VARIABLES
from supervisor.settings.schema import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference.md").read_text()
PACKAGE = ROOT / "supervisor"
# Header lines in our texts that go to a child or the control socket, not to a client.
TO_LLAMA_SERVER = {"host", "authorization"}


def section(heading: str) -> str:
    _, found, rest = REFERENCE.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of every table under a heading, head and rule left out."""
    lines = section(heading).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("| ") and not line.startswith("| ---") and before.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def named(heading: str, column: int = 0) -> list[str]:
    """What stands between backticks in one column."""
    return [name for row in rows(heading) for name in re.findall(r"`([^`]+)`", row[column])]


def everything() -> list[str]:
    """Every module of the package, imported."""
    found = [one.name for one in pkgutil.walk_packages(supervisor.__path__, "supervisor.")]
    return [name for name in found if not name.endswith("__main__")]


def test_the_made_parts_are_as_the_program_is() -> None:
    assert make_reference.filled(REFERENCE) == REFERENCE, "run: make docs"


def test_the_made_parts_are_not_empty() -> None:
    for heading in ("Configuration", "Command", "Causes of death", "Metrics", "Control API"):
        assert len(list(rows(heading))) > 10, heading


# ---- configuration


def test_every_key_is_there() -> None:
    keys = {row[0].strip("`") for row in rows("Configuration")}
    assert keys == set(make_reference.defaults())
    top = {key.split(".")[0] for key in keys}
    assert top == set(Settings.model_fields)


def test_every_key_says_what_it_takes_and_means() -> None:
    for key, takes, default, meaning in rows("Configuration"):
        assert takes, key
        assert default or key.endswith(".NAME`"), key
        assert meaning, key


def test_every_variable_of_the_environment_is_there() -> None:
    variables = {*MODEL_VARIABLES, LOG_LEVEL}
    for path in PACKAGE.rglob("*.py"):
        variables |= set(re.findall(r"\"((?:LLMSUP|OTEL)_[A-Z]+(?:_[A-Z]+)*)\"", path.read_text()))
    assert variables >= {"LLMSUP_CONFIG", "LLMSUP_CACHE_DIR"}
    assert variables - {MARKER} <= set(named("Environment"))


# ---- the command


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for verb in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), verb)
            assert found is not None
            yield from leaves(found, f"{name} {verb}")
    else:
        yield name, command


def test_every_verb_and_option_is_there() -> None:
    text = section("Command")
    documented = set(re.findall(r"^### `([^`]+)`$", text, re.MULTILINE))
    commands = dict(leaves(root, "llmsup"))
    assert documented == set(commands)
    assert {name.split()[1] for name in commands} == set(VERBS)
    for name, command in commands.items():
        part = text.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
        for one in command.params:
            if isinstance(one, click.Option) and not one.hidden:
                assert all(spelled in part for spelled in one.opts), f"{name} {one.opts}"
                assert one.help, f"{name} {one.opts} says nothing of itself"
            elif isinstance(one, click.Argument):
                assert one.make_metavar(click.Context(command)) in part, f"{name} {one.name}"


# ---- errors and exit codes


def errors() -> list[type[LlmsupError]]:
    for name in everything():
        if not name.startswith("supervisor.cli."):
            importlib.import_module(name)
    found: list[type[LlmsupError]] = [LlmsupError]
    for kind in found:
        found += [one for one in kind.__subclasses__() if one not in found]
    return [one for one in found if "code" in vars(one)]  # the others go by their base's


def test_every_error_code_is_there_with_its_status_and_type() -> None:
    documented = {row[0].strip("`"): row for row in rows("Errors")}
    codes = {kind.code: kind for kind in errors()}
    assert len(codes) > 20
    assert set(documented) == set(codes)
    for code, (_, status, kind, when, todo) in documented.items():
        assert when, code
        assert todo, code
        if status:
            sent = [one for one in errors() if one.code == code]
            assert {str(one.status) for one in sent} == {status}, code
            assert {one.type for one in sent} == {kind.strip("`")}, code
        else:
            assert not kind, code


def test_codes_without_a_status_are_those_of_the_command() -> None:
    silent = {row[0].strip("`") for row in rows("Errors") if not row[1]}
    for kind in errors():
        if kind.exit_code > 1:
            assert kind.code in silent
            assert f"exit code {kind.exit_code}" in next(
                row[3] for row in rows("Errors") if kind.code in row[0]
            )


def test_every_exit_code_is_there() -> None:
    documented = {int(row[0]): row[1] for row in rows("Exit codes")}
    used = {kind.exit_code for kind in errors()} | {0, 2}
    for path in PACKAGE.rglob("*.py"):
        used |= {
            int(code)
            for code in re.findall(
                r"^(?:INTERRUPTED|USAGE(?:_ERROR)?) = (\d+)", path.read_text(), re.MULTILINE
            )
        }
    assert set(documented) == used
    said = dict(re.findall(r"(\d) ([a-z ]+)", root.epilog or ""))
    assert {str(code): words for code, words in documented.items() if code < 100} == said


# ---- what happens


def test_every_event_is_there() -> None:
    assert set(named("Events")) == {*KINDS, *PASSING}


def test_every_metric_is_there_with_its_labels() -> None:
    documented = {row[0].strip("`"): row for row in rows("Metrics")}
    assert set(documented) == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert documented[name][1] == family.kind
        assert tuple(re.findall(r"`([^`]+)`", documented[name][2])) == family.labels


def test_every_metric_made_anywhere_is_in_the_table() -> None:
    """A name written down elsewhere in the program would otherwise escape the table."""
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r'"((?:llm|llmsup)_[a-z_]+(?:_total|_seconds|_bytes))"', path.read_text()):
            assert name in FAMILIES, f"{path.name}: {name}"


def test_every_state_and_cause_is_there() -> None:
    assert [row[0].strip("`") for row in rows("States")] == [state.value for state in State]
    assert {row[0].strip("`") for row in rows("Causes of death")} == set(REMEDIES)


# ---- the port and the control API


def test_every_control_route_is_there_with_its_parameters() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("Control API")}
    assert set(documented) == {f"{one.method} {one.path}" for one in OPERATIONS}
    for one in OPERATIONS:
        for parameter in one.parameters:
            assert f"`{parameter.name}`" in documented[f"{one.method} {one.path}"]


def test_every_route_of_the_port_is_there() -> None:
    text = " ".join(named("On the port"))
    routes = {path.decode() for path in (*cached.OWN, *ingress.ADMIN_POSTS, *ingress.ADMIN_PREFIXES)}
    for path in routes:
        assert re.search(rf"{re.escape(path)}(?![\w])|{re.escape(path)}\.\.\.", text), path


def texts() -> Iterator[tuple[str, str]]:
    """Every text and byte string in the code that answers."""
    for folder in ("proxy", "control", "ratelimit"):
        for path in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                    value = node.value
                    yield path.name, value.decode("latin-1") if isinstance(value, bytes) else value


def written_headers() -> set[str]:
    """The names of all header lines that are written anywhere, ``{0}`` filled in."""
    found = set()
    for _, text in texts():
        for line in text.split("\r\n"):
            name = re.match(r"([A-Za-z][A-Za-z0-9-]*(?:\{0\}[A-Za-z0-9-]*)?): ", line)
            if name and "\r\n" in text:
                found |= {name[1].format(unit) for unit in ("requests", "tokens")}
    found |= {*page.HEADERS, "etag", *(name.decode() for name, _ in HEADERS)}
    return found | {name.strip() for name in EXPOSED.decode().split(",")}


def test_every_response_header_is_there() -> None:
    documented = {name.lower() for name in named("Headers")}
    found = {name.lower() for name in written_headers()} - TO_LLAMA_SERVER
    assert {"retry-after", "x-request-id", "anthropic-ratelimit-tokens-reset", "set-cookie"} <= found
    assert found <= documented, found - documented


def test_every_header_that_is_documented_is_in_the_code() -> None:
    """No header outlives what wrote or read it."""
    code = " ".join(text for _, text in texts()).lower() + " ".join(written_headers()).lower()
    for name in named("Headers"):
        if re.fullmatch(r"[A-Za-z]+(-[A-Za-z]+)*", name) and "-" in name:
            assert name.lower() in code, name


# ---- files


@pytest.mark.parametrize(
    "name",
    [deaths.FILE_NAME, store.FILE_NAME, logging.GENERAL, logging.ERRORS, logging.METRICS, logging.ACCESS],
)
def test_every_file_is_there(name: str) -> None:
    assert any(os.path.basename(path) == name for path in named("Files"))
