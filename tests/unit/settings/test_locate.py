"""Which file, and agreement of the cheap reader with the full one."""

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.settings import locate, paths
from supervisor.settings.load import load

MODEL = "models: {demo: {path: m.gguf}}\n"


@pytest.fixture
def no_system_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "SYSTEM_CONFIG", tmp_path / "etc/llmsup.yaml")


@pytest.mark.usefixtures("no_system_config")
def test_the_option_then_the_variable_then_the_usual_places(tmp_path: Path) -> None:
    for name in ("option.yaml", "variable.yaml", "config/llmsup.yaml", "etc/llmsup.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    environ = {"LLMSUP_CONFIG": "variable.yaml"}
    assert locate.find_config("option.yaml", environ, tmp_path) == tmp_path / "option.yaml"
    assert locate.find_config(None, environ, tmp_path) == tmp_path / "variable.yaml"
    assert locate.find_config(None, {"LLMSUP_CONFIG": ""}, tmp_path) == tmp_path / "config/llmsup.yaml"
    (tmp_path / "config/llmsup.yaml").unlink()
    assert locate.find_config(None, {}, tmp_path) == tmp_path / "etc/llmsup.yaml"


@pytest.mark.usefixtures("no_system_config")
def test_none_found_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        locate.find_config(None, {}, tmp_path)
    for place in (
        "--config",
        "$LLMSUP_CONFIG",
        str(tmp_path / "config/llmsup.yaml"),
        "etc/llmsup.yaml",
        "--config FILE",
    ):
        assert place in str(caught.value)


def test_a_file_asked_for_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/llmsup.yaml").touch()
    with pytest.raises(ConfigError, match=r"--config names .*gone.yaml"):
        locate.find_config("gone.yaml", {}, tmp_path)
    with pytest.raises(ConfigError, match=r"\$LLMSUP_CONFIG names .*gone.yaml"):
        locate.find_config(None, {"LLMSUP_CONFIG": "gone.yaml"}, tmp_path)


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("", {}),
        ("state_dir: null", {"XDG_STATE_HOME": "/xdg"}),
        ("state_dir: s", {}),
        ("state_dir: ~/s/../t", {"HOME": "/home/x"}),
        ("state_dir: 's'\nlisten: '[::1]:9'", {}),
        ("state_dir: s", {"LLMSUP__STATE_DIR": "/e", "LLMSUP__LISTEN": "[::1]:7"}),
        ("state_dir: s", {"llmsup__state_dir": ""}),
        ("tls: {cert_file: c.pem, key_file: k.pem}", {}),
        ("tls: {cert_file: null}", {"LLMSUP__TLS__CERT_FILE": "/c.pem", "LLMSUP__TLS__KEY_FILE": "/k.pem"}),
        ("state_dir: s # [", {"LLMSUP__STATE_DIR": '"q"'}),
        ("", {"XDG_STATE_HOME": "relative", "HOME": "/home/x"}),
    ],
)
@pytest.mark.parametrize("euid", [0, 1000])
def test_the_cheap_reader_agrees_with_the_full_one(
    tmp_path: Path, text: str, environ: dict[str, str], euid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: euid)
    file = tmp_path / "c.yaml"
    file.write_text(MODEL + text)
    settings = load(file, environ).settings
    expected = locate.Essentials(settings.state_dir, settings.listen, settings.tls.cert_file)
    assert locate.essentials(file, environ) == expected
    assert locate.runtime_dir(file, environ) == settings.state_dir


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "state_dir: 5\nlisten: 5\ntls: {cert_file: 5}",
        "tls: {cert_file: ''}",
        "state_dir: ''\nlisten: ':'",
        "[]",
        "\0",
    ],
)
def test_a_broken_file_gives_the_defaults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    expected = locate.Essentials(Path("/xdg/llmsup"), paths.DEFAULT_LISTEN)
    assert locate.essentials(file, {"XDG_STATE_HOME": "/xdg"}) == expected
    assert locate.runtime_dir(tmp_path / "gone.yaml", {"LLMSUP__STATE_DIR": "/e"}) == Path("/e")


def test_a_broken_log_section_is_no_obstacle_whatever_the_environment_says(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{MODEL}state_dir: /s\nlog: 5\n")
    assert locate.essentials(file, {"LOG_LEVEL": "debug"}).state_dir == Path("/s")
    with pytest.raises(ConfigError, match=r"c\.yaml:3:6: log: expected a section"):
        load(file, {"LOG_LEVEL": "debug"})


def test_the_default_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert paths.default_state_dir({"HOME": "/home/x"}) == Path("/home/x/.local/state/llmsup")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert paths.default_state_dir({"HOME": "/root"}) == Path("/var/lib/llmsup")
    assert paths.default_state_dir({"XDG_STATE_HOME": "/xdg"}) == Path("/xdg/llmsup")


def test_locating_imports_no_pydantic() -> None:
    code = "import sys, supervisor.settings.locate; sys.exit('pydantic' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "broken", ["listen: [", "\tmodels: {", "models: {demo: {path: a}}\nmodels: {}", "key: 'unended"]
)
def test_a_file_that_an_edit_broke_still_says_where_its_daemon_is(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "llmsup.yaml"
    file.write_text(f"state_dir: {tmp_path}/state  # here\nlisten: '127.0.0.1:9001'\n{MODEL}{broken}\n")
    found = locate.essentials(file, {})
    assert found.state_dir == tmp_path / "state"
    assert found.listen == "127.0.0.1:9001"


def test_what_is_deeper_in_a_broken_file_is_not_taken_for_it(tmp_path: Path) -> None:
    file = tmp_path / "llmsup.yaml"
    file.write_text("models:\n  demo:\n    state_dir: /nowhere\n# listen: 127.0.0.1:1\nbroken: [\n")
    found = locate.essentials(file, {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "x")})
    assert found.state_dir == paths.default_state_dir(
        {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "x")}
    )
    assert found.listen == paths.DEFAULT_LISTEN


@pytest.mark.usefixtures("no_system_config")
@pytest.mark.parametrize("place", ["config/llmsup.yaml", "etc/llmsup.yaml"])
def test_what_lies_there_is_not_used_when_others_could_have_written_it(tmp_path: Path, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir()
    file.touch()
    for weak, strong in ((0o666, 0o644), (0o777, 0o755)):
        one = file if weak == 0o666 else file.parent
        one.chmod(weak)
        with pytest.raises(
            ConfigError, match=f"others could have written it: {one} may be written by everybody"
        ) as caught:
            locate.find_config(None, {}, tmp_path)
        assert f"chmod go-w {one}" in caught.value.hint
        assert f"llmsup --config {file}" in caught.value.hint
        assert locate.find_config(place, {}, tmp_path) == file  # asked for by name
        assert locate.find_config(None, {"LLMSUP_CONFIG": place}, tmp_path) == file
        one.chmod(strong)
    assert locate.find_config(None, {}, tmp_path) == file
