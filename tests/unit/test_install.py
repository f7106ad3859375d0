"""`llmsup install`: units for this installation; nothing of anybody's overwritten, nothing half done."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supervisor.cli import install, unitfile
from supervisor.cli.main import root, run
from supervisor.errors import ConfigError, Conflict, LlmsupError, PermissionDenied

CONFIG = """\
listen: 127.0.0.1:8111
models: {demo: {path: demo.gguf}}
proxy: {drain_timeout_s: 90}
"""
FAKE_SYSTEMCTL = """\
#!%s
import json, sys
with open(%r, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "%s" in sys.argv:
    sys.exit("Unit is masked.")
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that systemd runs, with nothing installed."""
    for name in [name for name in os.environ if name.startswith(("LLMSUP", "LLM_", "XDG_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(install, "RUNS", tmp_path)
    monkeypatch.setattr(install, "SYSTEM_UNITS", tmp_path / "system")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return systemctl(tmp_path, monkeypatch)


def systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails_at: str = "-") -> Path:
    """One that writes down what it is asked."""
    program, told = folder / "bin/systemctl", folder / "calls"
    program.parent.mkdir(exist_ok=True)
    program.write_text(FAKE_SYSTEMCTL % (sys.executable, str(told), fails_at))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return told


def asked(calls: Path) -> list[list[str]]:
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def llmsup(config: Path, *words: str) -> Result:
    return CliRunner().invoke(root, ["--config", str(config), "install", "--systemd", *words])


def unit(config: Path, name: str = unitfile.SERVICE) -> Path:
    return config.parent / "system" / name


def test_the_unit_is_of_this_installation_and_configuration(config: Path) -> None:
    result = llmsup(config)
    assert result.exit_code == 0, result.output
    written = unit(config).read_text()
    program = Path(sys.executable).with_name("llmsup")
    assert f"ExecStart={program} --config {config} run\n" in written
    assert "TimeoutStopSec=120\n" in written
    assert "User=llmsup\n" in written
    assert stat.S_IMODE(unit(config).stat().st_mode) == 0o644
    assert [path.name for path in unit(config).parent.iterdir()] == [unitfile.SERVICE]


def test_every_line_is_on_the_terminal_with_its_reason(config: Path) -> None:
    said = llmsup(config).stdout
    for line in unit(config).read_text().splitlines()[1:]:
        assert line.removeprefix("# ") in said
    assert "systemctl daemon-reload" in said
    assert "systemctl enable --now llmsup.service" in said


def test_print_writes_the_unit_and_nothing_else(config: Path) -> None:
    result = llmsup(config, "--print", "--run-as", "me")
    assert result.stdout.startswith("[Unit]\n")
    assert "User=me\n" in result.stdout
    assert not list(unit(config).parent.iterdir())


def test_the_users_own_goes_to_the_users_folder(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSUP_CACHE_DIR", "/data/cache")
    result = llmsup(config, "--user", "--socket")
    folder = config.parent / "home/systemd/user"
    assert {path.name for path in folder.iterdir()} == {unitfile.SERVICE, unitfile.SOCKET}
    assert "Environment=LLMSUP_CACHE_DIR=/data/cache\n" in (folder / unitfile.SERVICE).read_text()
    assert "ListenStream=127.0.0.1:8111\n" in (folder / unitfile.SOCKET).read_text()
    assert "systemctl --user enable --now llmsup.socket llmsup.service" in result.stdout
    assert "loginctl enable-linger" in result.stdout


def test_a_changed_unit_is_left_alone(config: Path) -> None:
    llmsup(config)
    changed = unit(config).read_text() + "Nice=5\n"
    unit(config).write_text(changed)
    config.write_text(CONFIG.replace("90", "60"))
    result = llmsup(config)
    assert isinstance(result.exception, Conflict)
    assert unit(config).read_text() == changed
    assert llmsup(config, "--force").exit_code == 0
    assert "TimeoutStopSec=90\n" in unit(config).read_text()
    assert unit(config).with_name("llmsup.service.bak").read_text() == changed


def test_an_own_unit_follows_the_configuration(config: Path) -> None:
    llmsup(config)
    assert "as it should be already" in llmsup(config).stdout
    config.write_text(CONFIG.replace("90", "60"))
    assert llmsup(config).exit_code == 0
    assert "TimeoutStopSec=90\n" in unit(config).read_text()
    assert not unit(config).with_name("llmsup.service.bak").exists()


def test_a_masked_unit_is_not_replaced(config: Path) -> None:
    unit(config).symlink_to("/dev/null")
    assert isinstance(llmsup(config).exception, Conflict)
    assert unit(config).is_symlink()


def test_enable_asks_systemctl(config: Path, calls: Path) -> None:
    assert llmsup(config, "--enable", "--socket").exit_code == 0
    assert asked(calls) == [["daemon-reload"], ["enable", "--now", unitfile.SOCKET, unitfile.SERVICE]]


def test_what_systemctl_refuses_is_said_in_its_words(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(config.parent, monkeypatch, fails_at="enable")
    result = llmsup(config, "--enable")
    assert isinstance(result.exception, LlmsupError)
    assert "systemctl enable: Unit is masked." in str(result.exception)


def test_uninstall_removes_what_install_wrote(config: Path, calls: Path) -> None:
    llmsup(config, "--socket")
    other = unit(config, "other.service")
    other.write_text("other")
    assert llmsup(config, "--uninstall").exit_code == 0
    assert list(unit(config).parent.iterdir()) == [other]
    assert asked(calls) == [["disable", "--now", unitfile.SOCKET, unitfile.SERVICE], ["daemon-reload"]]
    assert "nothing to remove" in llmsup(config, "--uninstall").stdout


def test_uninstall_leaves_all_when_one_was_changed(config: Path, calls: Path) -> None:
    llmsup(config, "--socket")
    unit(config).write_text("mine")
    assert isinstance(llmsup(config, "--uninstall").exception, Conflict)
    assert unit(config, unitfile.SOCKET).exists()
    assert asked(calls) == []
    assert llmsup(config, "--uninstall", "--force").exit_code == 0
    assert [path.read_text() for path in unit(config).parent.iterdir()] == ["mine"]  # as .bak


def test_without_systemd_nothing_is_written(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "RUNS", config.parent / "nowhere")
    result = llmsup(config)
    assert "systemd does not run this machine" in str(result.exception)
    assert not list(unit(config).parent.iterdir())


def test_a_folder_that_is_not_ours_is_exit_code_4(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed, folder = os.access, unit(config).parent  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, *mode: path != folder and allowed(path, *mode))
    assert run(["--config", str(config), "install", "--systemd"]) == PermissionDenied.exit_code == 4
    assert "--user" in capsys.readouterr().err


def test_a_broken_configuration_is_said_before_anything_is_written(config: Path) -> None:
    config.write_text("models: {}\n")
    assert isinstance(llmsup(config).exception, ConfigError)
    assert not list(unit(config).parent.iterdir())


def test_what_would_surprise_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSUP__PROXY__QUEUE_SIZE", "5")
    config.parent.chmod(0o700)
    said = llmsup(config, "--run-as", "nobody-we-know").stderr
    assert "no user nobody-we-know" in said
    assert "may not be let into" in said
    assert "LLMSUP__PROXY__QUEUE_SIZE" in said


def test_it_wants_to_hear_systemd(config: Path) -> None:
    result = CliRunner().invoke(root, ["--config", str(config), "install"])
    assert result.exit_code == 2
    assert "--systemd" in result.stderr
