"""What the verbs share: which configuration, which daemon, which address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from supervisor.cli import context
from supervisor.cli.main import root
from supervisor.errors import ConfigError


@contextmanager
def called_with(*arguments: str) -> Iterator[None]:
    with click.Context(root) as ctx:
        root.parse_args(ctx, [*arguments, "status"])
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMSUP_CONFIG", raising=False)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_option_beats_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, other = (write(tmp_path / name, "{}") for name in ("a.yaml", "b.yaml"))
    monkeypatch.setenv("LLMSUP_CONFIG", str(other))
    with called_with("--config", str(asked)):
        assert context.config_path() == asked
    with called_with():
        assert context.config_path() == other


def test_a_file_that_was_asked_for_and_is_not_there_is_an_error() -> None:
    with called_with("--config", "none.yaml"), pytest.raises(ConfigError, match=r"none\.yaml"):
        context.config_path()


def test_the_run_folder_is_the_state_folders(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", f"state_dir: {tmp_path}/state\n")
    with called_with("--config", str(config)):
        assert context.run_dir().path == tmp_path / "state" / "run"


def test_a_broken_file_does_not_keep_anybody_from_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSUP__STATE_DIR", str(tmp_path / "state"))
    config = write(tmp_path / "c.yaml", "models: [\n")
    with called_with("--config", str(config)):
        assert context.run_dir().path == tmp_path / "state" / "run"


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:81", ("127.0.0.1", 81)),
        ("0.0.0.0:81", ("127.0.0.1", 81)),
        ("'[::]:81'", ("::1", 81)),
        ("example.org:81", ("example.org", 81)),
    ],
)
def test_an_address_to_listen_on_is_turned_into_one_to_connect_to(
    tmp_path: Path, listen: str, address: tuple[str, int]
) -> None:
    config = write(tmp_path / "c.yaml", f"listen: {listen}\n")
    with called_with("--config", str(config)):
        assert context.listen() == address


def test_a_named_configuration_that_others_can_write_is_used_with_a_loud_word_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "c.yaml", "{}")
    config.chmod(0o666)
    with called_with("--config", str(config)):
        assert context.config_path() == config
        assert context.config_path() == config
        assert context.is_config_named()
    told = capsys.readouterr().err
    assert told.count("warning: others could have written") == 1
    assert f"chmod go-w {config}" in told
    config.chmod(0o644)
    with called_with("--config", str(config)):
        context.config_path()
    assert capsys.readouterr().err == ""
