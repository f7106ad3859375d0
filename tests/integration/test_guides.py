"""The guides are true: their ``console`` blocks marked ``<!-- tested -->`` are run, one after the other, in one shell.

What is not run is read all the same: every ``llmsup`` in a block of any document must be a command line that the program takes.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli.main import root
from tests.support import gguf
from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*GUIDES, ROOT / "README.md", ROOT / "config/systemd/README.md"]
PORT = "8005"


def commands_of(document: str) -> list[str]:
    """The commands of all marked blocks."""
    text = (ROOT / "docs" / document).read_text()
    blocks = re.findall(r"^<!-- tested -->\n```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), lines
    return [line.removeprefix("$ ") for line in lines]


def shell(daemon: DaemonUnderTest, commands: list[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run them in the test's folder, on the test's port, to the first that fails."""
    program = daemon.folder / "bin/llmsup"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m supervisor "$@"\n')
    program.chmod(0o755)
    lines = ["set -eo pipefail"]
    for command in commands:
        here = command.replace(f":{PORT}", f":{daemon.port}").replace("curl -s ", "curl -sf ")
        lines += [f"echo {shlex.quote(f'+ {command}')} >&2", here]
    return subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=daemon.folder,
        env=daemon.environ
        | environ
        | {"PATH": f"{program.parent}:{daemon.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def assert_done(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, f"{done.stderr[-1500:]}\n{done.stdout[-1500:]}"


def test_getting_started_gets_somebody_started() -> None:
    with DaemonUnderTest() as daemon:
        (daemon.folder / "my-model.gguf").write_bytes(gguf.model(context=2048))
        binary = daemon.config.read_text().partition("binary: ")[2].partition("\n")[0]
        done = shell(
            daemon,
            commands_of("getting-started.md"),
            LLMSUP__LISTEN=f"127.0.0.1:{daemon.port}",
            LLMSUP__STATE_DIR=str(daemon.state_dir),
            LLMSUP__LLAMA_SERVER__BINARY=binary,
        )
        assert_done(done)
        assert "llmsup is ready" in done.stdout
        assert "killed" in done.stdout  # why
        assert "proxy.queue_size: 50" in done.stdout


def test_an_operators_day_is_as_it_is_told(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(gguf.model())
    with DaemonUnderTest(model_path=model) as daemon:
        assert daemon.cli("start").returncode == 0
        done = shell(daemon, commands_of("operations.md"), LLMSUP_CONFIG=str(daemon.config))
        assert_done(done)
        assert "READY" in done.stdout
        assert "llmsup_instance_state" in done.stdout
        assert daemon.cli("stop").returncode == 0


# ---- what is only shown


def blocks(path: Path) -> Iterator[list[str]]:
    """The lines of each fenced block that is console, shell or has no language."""
    language, lines = None, []
    for line in path.read_text().splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line.removeprefix("```"), []
        else:
            if language in {"", "console", "sh"}:
                yield lines
            language = None


def shown(path: Path) -> list[str]:
    """Every command line of llmsup in a block; where some lines have a ``$``, the others are what is printed."""
    found = []
    for block in blocks(path):
        prompts = [line.removeprefix("$ ") for line in block if line.startswith("$ ")]
        for line in prompts or block:
            inside = re.findall(r"\$\(([^()]*)\)", line)
            for part in re.split(r" (?:&&|\|\||;|\||#) ", re.sub(r"\$\([^()]*\)", "X", line)) + inside:
                words = re.match(r"(?:\S*/|sudo )*llmsup (.+)", part.strip())
                if words:
                    found.append(words[1])
    return found


def test_there_is_something_to_read() -> None:
    assert sum(len(shown(path)) for path in DOCUMENTS) > 40


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_shown_can_be_said(path: Path) -> None:
    for line in shown(path):
        understood(root, shlex.split(line), line)


def understood(command: click.Command, words: list[str], line: str) -> None:
    """Parse as the program does, and run nothing."""
    context = click.Context(command, info_name="llmsup")
    while words[:1] == ["--config"]:
        words = words[2:]
    if isinstance(command, click.Group):
        assert words, line
        found = command.get_command(context, words[0])
        assert found is not None, line
        understood(found, words[1:], line)
        return
    parser = command.make_parser(context)
    try:
        _, rest, _ = parser.parse_args(args=words)
    except click.UsageError as error:
        raise AssertionError(f"{line}: {error.message}") from None
    assert not rest, line
