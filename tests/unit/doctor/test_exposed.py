"""The facts beside the configuration: usable keys, and whose the socket's folder is."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from supervisor.doctor.exposed import facts
from supervisor.doctor.exposure import Facts
from supervisor.keys import store
from supervisor.keys.key import Key
from supervisor.settings.schema import Settings


def settings(folder: Path, **more: object) -> Settings:
    return Settings.model_validate(
        {"models": {"demo": {"path": "/m.gguf"}}, "state_dir": str(folder / "s")} | more
    )


def test_no_folder_no_keys(tmp_path: Path) -> None:
    assert facts(settings(tmp_path)) == Facts(usable_keys=0)
    assert list(tmp_path.iterdir()) == []


def test_expired_keys_are_not_usable(tmp_path: Path) -> None:
    now, one = datetime.now(UTC), settings(tmp_path)
    path = one.state_dir / store.FILE_NAME
    store.create(path, Key("", "old", b"", now, expires=now - timedelta(days=1)))
    assert facts(one).usable_keys == 0
    store.create(path, Key("", "new", b"", now))
    assert facts(one).usable_keys == 1


def test_a_list_that_cannot_be_believed_is_not_told(tmp_path: Path) -> None:
    one = settings(tmp_path)
    one.state_dir.mkdir()
    (one.state_dir / store.FILE_NAME).write_text("?")
    assert facts(one).usable_keys is None


def test_the_folder_of_the_socket(tmp_path: Path) -> None:
    mode = facts(settings(tmp_path, listen_unix=str(tmp_path / "s.sock"))).socket_folder_mode
    assert mode is not None
    assert stat.S_IMODE(mode) == stat.S_IMODE(os.stat(tmp_path).st_mode)
    assert facts(settings(tmp_path, listen_unix=str(tmp_path / "no" / "s.sock"))).socket_folder_mode is None
