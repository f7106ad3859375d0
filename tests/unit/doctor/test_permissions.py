"""What doctor says of files that others could have written, and of what to do."""

from pathlib import Path

import pytest

from supervisor.doctor import permissions
from supervisor.doctor.finding import Level
from supervisor.keys import store
from tests.support import fake_build


def test_a_configuration_of_ones_own_is_well_and_one_of_everybody_is_not(tmp_path: Path) -> None:
    file = tmp_path / "llmsup.yaml"
    file.touch(0o644)
    assert [one.level for one in permissions.configuration(file)] == [Level.OK]
    file.chmod(0o666)
    (found,) = permissions.configuration(file)
    assert (found.level, found.remedy) == (Level.WARN, f"chmod go-w {file}")
    assert "what runs as this user" in found.detail


def test_a_program_that_was_named(tmp_path: Path) -> None:
    path = fake_build.script(tmp_path / "llama-server", fake_build.SERVER_SCRIPT)
    assert list(permissions.programs(str(path))) == []
    path.chmod(0o757)
    (found,) = permissions.programs(str(path))
    assert (found.level, found.remedy) == (Level.WARN, f"chmod o-w {path}")


def test_a_cache_that_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSUP_CACHE_DIR", str(tmp_path / "cache"))
    assert list(permissions.programs("auto")) == []  # it is not there yet
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    (found,) = permissions.programs("auto")
    assert (found.level, found.remedy) == (Level.WARN, f"chmod go-w {tmp_path}/cache")


def test_the_state_folder_and_the_keys_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert list(permissions.state(folder)) == []
    folder.mkdir(0o700)
    keys = folder / store.FILE_NAME
    keys.write_text('{"version": 1, "keys": []}')
    keys.chmod(0o606)
    folder.chmod(0o777)
    weak, broken = permissions.state(folder)
    assert (weak.level, weak.remedy) == (Level.WARN, f"chmod go-w {folder}")
    assert (broken.level, broken.title) == (Level.FAIL, "keys")
    assert f"chmod 600 {keys}" in broken.remedy
