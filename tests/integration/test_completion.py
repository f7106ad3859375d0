"""`llmsup completion`: the script in a real shell, asked as the Tab key asks it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest, running

ROOT = Path(__file__).parents[2]
# What readline does: the words so far into COMP_WORDS, then the function that is registered for the command.
TAB = r"""
eval "$(llmsup completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
[[ "$(complete -p llmsup)" =~ -F\ ([a-z_]+) ]] || exit 9
compopt() { echo "compopt $*" >&2; }
"${BASH_REMATCH[1]}" llmsup "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"
"""


class Shell:
    """bash, with `llmsup` in its $PATH as an installed one is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "llmsup"
        program.write_text(f'#!/bin/sh\nexec "{shutil.which("python", path=_venv())}" -m supervisor "$@"\n')
        program.chmod(0o755)

    def tab(self, *words: str, **environ: str) -> tuple[list[str], str]:
        """What is proposed after these words, the last one being unfinished; and what was said on stderr."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMSUP")}
        done = subprocess.run(
            ["bash", "-c", TAB, "bash", "llmsup", *words],
            env=clean | {"PATH": f"{self.folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr


def _venv() -> str:
    return str(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    return Shell(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonUnderTest]:
    with running(models={"demo": {"fake": {"token_delay_s": 0.05}}, "other": {}}) as one:
        yield one


def test_verbs_and_options(shell: Shell) -> None:
    assert shell.tab("re") == (["restart", "reload", "requests"], "")
    assert shell.tab("status", "--j") == (["--json"], "")
    assert "--config" in shell.tab("--")[0]
    assert shell.tab("keys", "") == (["create", "list", "revoke"], "")
    assert shell.tab("build", "--backend", "c") == (["cpu", "cuda"], "")
    assert shell.tab("completion", "") == (["bash", "zsh", "fish"], "")
    assert shell.tab("nonesuch", "")[1] == ""  # a word that is no verb is not the moment to complain


@pytest.mark.parametrize("verb", [["restart"], ["load"], ["unload"], ["logs"], ["why"], ["chat", "--model"]])
def test_models_come_from_the_configuration_without_a_daemon(shell: Shell, verb: list[str]) -> None:
    config = shell.folder / "c.yaml"
    config.write_text("models:\n  alpha: {path: a}\n  beta: {path: b}\n  alto: {path: c}\n")
    assert shell.tab("--config", str(config), *verb, "al") == (["alpha", "alto"], "")
    assert shell.tab(*verb, "", LLMSUP_CONFIG=str(config))[0] == ["alpha", "beta", "alto"]


def test_of_a_broken_configuration_the_daemon_says_them(shell: Shell, daemon: DaemonUnderTest) -> None:
    text = daemon.config.read_text()
    try:
        daemon.config.write_text(f"state_dir: {daemon.state_dir}\nmodels: [\n")
        assert shell.tab("--config", str(daemon.config), "restart", "") == (["demo", "other"], "")
    finally:
        daemon.config.write_text(text)


def test_requests_come_from_the_daemon(shell: Shell, daemon: DaemonUnderTest) -> None:
    with daemon.streaming(max_tokens=5000):
        names, said = shell.tab("--config", str(daemon.config), "cancel", "")
        assert (len(names), said) == (1, "")
        assert daemon.cli("cancel", names[0]).returncode == 0
    assert shell.tab("--config", str(daemon.config), "cancel", "nonesuch") == ([], "")


def test_keys_come_from_their_file(shell: Shell, daemon: DaemonUnderTest) -> None:
    assert daemon.cli("keys", "create", "ci").returncode == 0
    try:
        assert shell.tab("--config", str(daemon.config), "keys", "revoke", "") == (["ci"], "")
    finally:
        assert daemon.cli("keys", "revoke", "ci").returncode == 0


def test_where_nothing_can_be_known_nothing_is_said_and_soon(shell: Shell) -> None:
    with DaemonUnderTest() as none:
        begun = time.monotonic()
        assert shell.tab("--config", str(none.config), "cancel", "") == ([], "")
        assert shell.tab("--config", "/nonesuch.yaml", "restart", "") == ([], "")
        assert shell.tab("--config", "/nonesuch.yaml", "keys", "revoke", "") == ([], "")
        assert time.monotonic() - begun < 10


def test_a_frozen_daemon_does_not_hold_up_the_prompt(shell: Shell, daemon: DaemonUnderTest) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert shell.tab("--config", str(daemon.config), "cancel", "") == ([], "")
        assert time.monotonic() - begun < 5  # the command itself would wait for 10 s
    finally:
        daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_script_is_one_its_shell_can_read(shell: Shell, name: str) -> None:
    clean = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [shell.folder / "llmsup", "completion", name],
        env=clean,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "_LLMSUP_COMPLETE" in done.stdout
    assert f"{name}_complete" in done.stdout
    assert done.stderr == ""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: its script was not run")
    script = shell.folder / f"script.{name}"
    script.write_text(done.stdout)
    subprocess.run([name, "-n", str(script)], check=True, timeout=30)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_are_answered_in_their_own_way(shell: Shell, name: str) -> None:
    """What their scripts ask for, without them: type, value and help."""
    words = {"COMP_WORDS": "llmsup sta", "COMP_CWORD": "1" if name == "zsh" else "sta"}
    done = subprocess.run(
        [shell.folder / "llmsup"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "_LLMSUP_COMPLETE": f"{name}_complete"} | words,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "status" in done.stdout
    assert "start" in done.stdout
    assert "What runs, in which state." in done.stdout
