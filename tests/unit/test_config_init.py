"""`llmsup config init`: a first configuration that the daemon takes, and nothing overwritten by accident."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from supervisor.cli.config import command
from supervisor.cli.config_init import name_of
from supervisor.errors import Conflict, InstanceError
from supervisor.proc import machine
from supervisor.settings.load import load
from supervisor.settings.notices import notices
from supervisor.types import GIB
from tests.support import gguf


@pytest.fixture(autouse=True)
def _eight_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(16 * GIB, 8 * GIB))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "My Model: (v1.5).Q4_K_M.gguf"
    path.write_bytes(gguf.model(context=2048))
    return path


def init(*args: object) -> Result:
    return CliRunner().invoke(command, ["init", *map(str, args)])


def test_what_is_written_is_a_good_configuration(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.yaml"
    result = init(model, "-o", output)
    assert result.exit_code == 0, result.output
    loaded = load(output, {})
    assert list(notices(loaded)) == []
    (name,) = loaded.settings.models
    assert name == loaded.settings.default_model == "My-Model-v1.5-.Q4_K_M"
    written = loaded.settings.models[name]
    assert (written.path, written.context_size, written.parallel) == (model, 4 * 2048, 4)
    assert written.safe_profile.context_size == 2 * 2048
    assert output.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".yaml"] == ["new.yaml"]


def test_it_says_what_was_decided_and_why(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.yaml"
    said, text = init(model, "-o", output).stdout, output.read_text()
    for reason in (
        "2048 tokens for each slot, as many as it was trained with",
        "8192 of the machine's 16384 MiB",
    ):
        assert reason in said
        assert reason in text
    assert f"llmsup --config {output} start" in said


def test_a_file_that_is_there_is_left_alone(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("mine")
    result = init(model, "-o", output)
    assert isinstance(result.exception, Conflict)
    assert result.exception.exit_code == 7
    assert output.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([model.name, "mine.yaml"])


def test_force_keeps_what_was_there(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("mine")
    assert init(model, "-o", output, "--force").exit_code == 0
    assert (tmp_path / "mine.yaml.bak").read_text() == "mine"
    assert load(output, {}).settings.models


def test_a_name_that_yaml_would_read_as_something_else_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "12.gguf"
    path.write_bytes(gguf.model())
    assert init(path, "-o", tmp_path / "c.yaml").exit_code == 0
    assert list(load(tmp_path / "c.yaml", {}).settings.models) == ["12"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (gguf.WHOLE[: gguf.START + 10], "is truncated"),
        (gguf.MINIMAL, "holds no weights"),
    ],
)
def test_a_broken_model_is_named_by_its_reader_and_nothing_is_written(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    result = init(path, "-o", tmp_path / "c.yaml")
    assert isinstance(result.exception, InstanceError), result.output
    assert said in str(result.exception)
    assert not (tmp_path / "c.yaml").exists()


def test_what_does_not_fit_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(GIB, GIB // 4))
    result = init(model, "-o", tmp_path / "c.yaml")
    assert isinstance(result.exception, InstanceError)
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/qwen2.5-0.5b-q4.gguf", "qwen2.5-0.5b-q4"),
        ("/m/_.gguf", "model"),
        ("/m/ä b.gguf", "b"),
        ("x" * 200, "x" * 128),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(path) == name


def test_init_is_a_verb_of_config() -> None:
    assert isinstance(command, click.Group)
    assert set(command.commands) == {"check", "init", "schema", "show"}
