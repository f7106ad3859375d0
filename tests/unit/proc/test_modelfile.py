import errno
import os
from pathlib import Path

import pytest

from supervisor.proc import modelfile


def test_a_gguf_file_is_fine(tmp_path):
    (tmp_path / "m").write_bytes(b"GGUF\3\0\0\0")
    assert modelfile.check(tmp_path / "m") is None


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [(b"", "model_corrupt", "is empty"), (b"PK\3\4", "model_corrupt", "is not a GGUF file")],
)
def test_what_is_plainly_wrong_is_said_with_the_path(tmp_path, content, name, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    cause = modelfile.check(path)
    assert (cause.name, cause.permanent) == (name, True)
    assert cause.detail.startswith(f"{path} {words}")


def test_missing_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert modelfile.check(tmp_path / "none").name == "model_missing"
    assert "directory" in modelfile.check(tmp_path).detail
    assert "not a regular file" in modelfile.check(tmp_path / "pipe").detail


@pytest.mark.parametrize(
    ("number", "permanent"),
    [(errno.EACCES, True), (errno.ELOOP, True), (errno.EIO, False), (errno.ESTALE, False)],
)
def test_an_unreadable_file_is_for_good_unless_the_disk_may_recover(tmp_path, monkeypatch, number, permanent):
    monkeypatch.setattr(Path, "stat", _raising(number))
    cause = modelfile.check(tmp_path / "m")
    assert (cause.name, cause.permanent) == ("model_unreadable", permanent)


def test_running_out_of_descriptors_says_nothing_about_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "stat", _raising(errno.EMFILE))
    with pytest.raises(OSError, match="open files"):
        modelfile.check(tmp_path / "m")


def _raising(number):
    def stat(*_, **__):
        raise OSError(number, os.strerror(number))

    return stat
