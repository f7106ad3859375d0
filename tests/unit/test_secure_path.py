"""Whose a file is, and through what others could have written it: the file, its folders, and what links lead to."""

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor import secure_path
from supervisor.errors import ConfigError
from supervisor.secure_path import TRUSTED_UIDS, weakness
from tests.support.otheruser import NOBODY, needs_root


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "llmsup.yaml"
    path.parent.mkdir(parents=True)
    path.touch(0o644)
    return path


def at(path: Path | str) -> str | None:
    """Where the weakness is."""
    found = weakness(path, environ={})
    return None if found is None else found.path


def test_what_only_this_user_can_write_is_strong(file: Path) -> None:
    assert at(file) is None
    assert at(file.parent) is None
    assert at("/etc/passwd") is None


@pytest.mark.parametrize(("mode", "bits"), [(0o646, "o"), (0o666, "go"), (0o602, "o")])
def test_a_file_that_everybody_may_write(file: Path, mode: int, bits: str) -> None:
    file.chmod(mode)
    found = weakness(file, environ={})
    assert found is not None
    assert str(found) == f"{file} may be written by everybody (mode {mode:o})"
    assert found.remedy == f"chmod {bits}-w {file}"


def test_a_folder_on_the_way_that_everybody_may_write(file: Path) -> None:
    folder = file.parents[1]
    folder.chmod(0o777)
    assert at(file) == str(folder)
    folder.chmod(0o1777)  # sticky, as /tmp: what is ours in it stays ours
    assert at(file) is None
    file.parent.chmod(0o1777)
    assert at(file) is None
    assert at(file.parent) == str(file.parent)  # a folder of builds, say: others may put theirs beside


def test_both_the_folder_of_a_link_and_what_it_leads_to_are_looked_at(file: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "llmsup.yaml"
    link.symlink_to("../a/b/llmsup.yaml")
    assert at(link) is None
    file.parent.chmod(0o777)
    assert at(link) == str(file.parent)
    file.parent.chmod(0o755)
    link.parent.chmod(0o777)
    assert at(link) == str(link.parent)
    link.parent.chmod(0o755)
    file.chmod(0o666)
    assert at(link) == str(file)


def test_a_link_of_folders_and_one_that_goes_in_circles(file: Path, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(file.parent)
    assert at(tmp_path / "short" / "llmsup.yaml") is None
    file.parent.chmod(0o777)
    assert at(tmp_path / "short" / "llmsup.yaml") == str(file.parent)
    (tmp_path / "circle").symlink_to("circle")
    assert at(tmp_path / "circle") is None  # nobody can open it


def test_what_is_not_there_yet_is_as_strong_as_its_folders(file: Path) -> None:
    assert at(file.parent / "none" / "deeper") is None
    file.parent.chmod(0o777)
    assert at(file.parent / "none" / "deeper") == str(file.parent)


def test_a_relative_path_begins_in_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    file.chmod(0o666)
    assert at("llmsup.yaml") == str(file)
    assert at("../b/./llmsup.yaml") == str(file)


@needs_root
def test_what_belongs_to_somebody_else(file: Path) -> None:
    os.chown(file, NOBODY, NOBODY)
    found = weakness(file, environ={})
    assert found is not None
    assert str(found).startswith(f"{file} belongs to ")
    assert found.remedy == f"chown 0 {file}"
    assert weakness(file, environ={TRUSTED_UIDS: f"12, {NOBODY}"}) is None
    assert weakness(file, environ={}, uid=NOBODY) is None
    os.chown(file, 0, 0)
    os.chown(file.parents[1], NOBODY, NOBODY)
    assert at(file) == str(file.parents[1])


@needs_root
def test_a_link_that_somebody_else_put_into_a_sticky_folder(file: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "llmsup.yaml"
    link.symlink_to(file)
    assert at(link) is None
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert at(link) == str(shared)


Group = Callable[[list[str], list[tuple[str, int]]], None]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """The machine's lists: the group's members, and who has it as primary group."""

    def tell(members: list[str], primary: list[tuple[str, int]]) -> None:
        uids: dict[str, Any] = {"root": 0, "me": os.geteuid(), "eve": 4711} | dict(primary)
        monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="g", gr_mem=members))
        monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=uids[name]))
        everybody = [SimpleNamespace(pw_uid=uid, pw_gid=os.getegid()) for _, uid in primary]
        monkeypatch.setattr(pwd, "getpwall", lambda: everybody)
        monkeypatch.setattr(secure_path, "ROOT", -1)  # so that root's group is as others'

    return tell


@pytest.mark.parametrize(
    ("members", "primary", "strong"),
    [
        ([], [("me", os.geteuid())], True),  # a group of one's own, with a umask of 002
        (["me"], [], True),
        (["me", "eve"], [], False),
        ([], [("me", os.geteuid()), ("eve", 4711)], False),
    ],
)
def test_a_group_may_write_where_all_its_members_are_this_user(
    file: Path,
    group: Group,
    members: list[str],
    primary: list[tuple[str, int]],
    strong: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group(members, primary)
    trusted = frozenset({0, os.geteuid()})
    file.chmod(0o664)
    assert (secure_path.written_by_others(file.stat(), str(file), trusted) == "") is strong


def test_a_group_without_a_name_has_unknown_members(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(gid: int) -> None:
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    file.chmod(0o664)
    said = secure_path.written_by_others(file.stat(), str(file), frozenset({os.geteuid()}))
    assert said == f"may be written by the group {file.stat().st_gid} (mode 664)"


def test_an_access_list_may_name_anybody(file: Path, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    group([], [])
    monkeypatch.setattr(os, "getxattr", lambda *_: b"\2\0\0\0", raising=False)
    file.chmod(0o664)
    assert "access list" in secure_path.written_by_others(file.stat(), str(file), frozenset({os.geteuid()}))


@pytest.mark.parametrize("text", ["nobody", "1000;", "-1"])
def test_trusted_users_are_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match=TRUSTED_UIDS):
        secure_path.trusted_uids({TRUSTED_UIDS: text}, 1000)
