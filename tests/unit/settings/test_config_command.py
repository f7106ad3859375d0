"""`llmsup config check`, `show` and `schema` as the operator and as a script see them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from supervisor.cli.config import command
from supervisor.errors import ConfigError
from supervisor.settings.load import load

ROOT = Path(__file__).parents[3]


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
    result = run(str(good), LLM_MODEL_PATH="gone.gguf", LLM_MAX_HISTORY="5")
    assert result.exit_code == 0
    assert result.stdout.startswith("OK: ")
    assert result.stderr.splitlines() == [
        f"warning: models.demo.path: no such file: {good.parent / 'gone.gguf'}",
        "warning: models.demo.max_history: accepted for compatibility; llama-server has no such setting",
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


# ---- show


def show(*args: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(command, ["show", *args])


def test_show_says_each_value_and_where_it_came_from(good: Path) -> None:
    result = show(LLMSUP_CONFIG=str(good), LLMSUP__LOG__LEVEL="debug")
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first == f"# {good}"
    said = {key: (value, source) for key, value, source in map(_parts, rest)}
    assert said["models.other.path"] == (str(good.parent / "m.gguf"), "line 1")
    assert said["log.level"] == ("debug", "env LLMSUP__LOG__LEVEL")
    assert said["memory.limit_mb"] == ("2048", "default")
    assert set(said) == set(load(good, {}).sources)


def _parts(line: str) -> tuple[str, str, str]:
    left, _, source = line.rpartition("# ")
    key, _, value = left.strip().partition(": ")
    return key, value, source


def test_show_of_some_keys_and_of_what_is_not_as_it_comes(good: Path) -> None:
    some = show("memory", "models.demo.args", LLMSUP_CONFIG=str(good)).stdout.splitlines()
    assert [_parts(line)[0] for line in some[1:]] == [
        "models.demo.args",
        "memory.limit_mb",
        "memory.min_free_mb",
        "memory.growth_limit_mb",
    ]
    changed = show("--changed", LLMSUP_CONFIG=str(good)).stdout.splitlines()
    assert [_parts(line)[0] for line in changed[1:]] == [
        "models.demo.path",
        "models.other.path",
        "default_model",
    ]


def test_show_of_a_key_there_is_not_is_a_usage_error(good: Path) -> None:
    result = show("memroy", LLMSUP_CONFIG=str(good))
    assert result.exit_code == 2
    assert "No such key 'memroy'" in result.output


def test_show_for_machines_masks_secrets_too(good: Path) -> None:
    environ = {"LLMSUP__LIMITS__STORE": "redis://:hunter2@h:1/0", "LLMSUP__MODELS__DEMO__ENV__X": "hunter2"}
    result = show("--json", LLMSUP_CONFIG=str(good), **environ)
    document = json.loads(result.stdout)
    assert document["config"] == str(good)
    assert document["values"]["limits.store"] == {
        "value": "redis://***@h:1/0",
        "source": "env LLMSUP__LIMITS__STORE",
        "secret": True,
    }
    assert document["values"]["models.demo.env.X"]["value"] == "***"
    assert document["values"]["models.demo.path"]["value"] == str(good.parent / "m.gguf")
    assert "hunter2" not in result.stdout


# ---- schema


def test_the_committed_schema_is_current() -> None:
    """After a change of settings/schema.py: llmsup config schema > config/llmsup.schema.json"""
    result = CliRunner().invoke(command, ["schema"])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "config/llmsup.schema.json").read_text()


def test_the_example_names_its_schema() -> None:
    first = (ROOT / "config/llmsup.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=llmsup.schema.json"
