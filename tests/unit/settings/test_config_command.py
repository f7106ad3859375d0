"""`llmsup config check` as the operator and as a script see it."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from supervisor.cli.config import command
from supervisor.errors import ConfigError


def run(*args: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(command, ["check", *args])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").touch()
    file = tmp_path / "good.yaml"
    file.write_text("models: {demo: {path: m.gguf}, other: {path: m.gguf}}\ndefault_model: demo\n")
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("models: {demo: {path: m.gguf}}\nlisten: 5\n")
    return file


def test_valid_says_ok(good: Path) -> None:
    result = run(str(good))
    assert result.exit_code == 0
    assert result.stdout == f"OK: {good} (2 models, default demo)\n"
    assert result.stderr == ""


def test_one_model_is_singular(good: Path) -> None:
    assert (
        "(1 model, default a)"
        in run(str(good), LLMSUP__MODELS="{a: {path: m.gguf}}", LLMSUP__DEFAULT_MODEL="a").stdout
    )


def test_warnings_go_to_stderr_and_leave_exit_0(good: Path) -> None:
    result = run(str(good), LLM_MODEL_PATH="gone.gguf", LLMSUP__CLEANUP__MAX_AGE_S="5")
    assert result.exit_code == 0
    assert result.stdout.startswith("OK: ")
    assert result.stderr.splitlines() == [
        f"warning: models.demo.path: no such file: {good.parent / 'gone.gguf'}",
        "warning: cleanup: accepted, not enforced yet: this version does nothing with it",
    ]


def test_invalid_raises_for_main_to_print(bad: Path) -> None:
    result = run(str(bad))
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{bad}:2:9: listen: ")


def test_json_of_a_valid_file(good: Path) -> None:
    result = run(str(good), "--json", LLM_MODEL_PATH="/gone")
    assert json.loads(result.stdout) == {
        "ok": True,
        "errors": [],
        "warnings": [{"key": "models.demo.path", "message": "no such file: /gone"}],
    }


def test_json_of_an_invalid_file_still_exits_6(bad: Path) -> None:
    result = run(str(bad), "--json")
    assert result.exit_code == 6
    message = "expected text, found the number 5 (put it in quotes)"
    assert json.loads(result.stdout) == {
        "ok": False,
        "errors": [{"file": str(bad), "line": 2, "column": 9, "key": "listen", "message": message}],
        "warnings": [],
    }


def test_without_a_path_the_usual_places_count(good: Path, bad: Path) -> None:
    assert str(good) in run(LLMSUP_CONFIG=str(good)).stdout
    result = run("--json", LLMSUP_CONFIG="/gone.yaml")
    assert "/gone.yaml" in json.loads(result.stdout)["errors"][0]["message"]


def test_the_option_of_the_main_command_counts(good: Path) -> None:
    main = click.Group("llmsup", params=[click.Option(["--config"])], commands={"config": command})
    result = CliRunner().invoke(main, ["--config", str(good), "config", "check"])
    assert str(good) in result.stdout
