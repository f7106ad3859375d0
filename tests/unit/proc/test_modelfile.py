import errno
import os
from pathlib import Path
from typing import get_args

import pytest

from supervisor.proc import modelfile
from supervisor.proc.gguf import Kind
from tests.support.gguf import MINIMAL, WHOLE, header, text


def test_a_gguf_file_is_fine(tmp_path):
    for name, content in {"none": MINIMAL, "some": WHOLE}.items():
        (tmp_path / name).write_bytes(content)
        seen = modelfile.look(tmp_path / name)
        assert (seen.cause, seen.doubt, seen.header.tensor_count) == (None, "", 2 * (name == "some"))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "model_corrupt", "is empty"),
        (b"PK\3\4", "model_corrupt", "is not a GGUF file: it begins with b'PK"),
        (b"GGUF", "model_corrupt", "is truncated in its header: the version takes 4 bytes"),
        (WHOLE[:500], "model_corrupt", "is truncated in its header"),
        (WHOLE[:-9], "model_corrupt", ": tensor 'output_norm.weight' ends at byte"),
        (header(version=1), "model_unsupported", "is of version 1; versions 2 and 3 are supported"),
    ],
)
def test_what_is_certainly_wrong_is_said_with_the_path(tmp_path, content, name, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    cause = modelfile.check(path)
    assert (cause.name, cause.permanent) == (name, True)
    assert cause.detail.startswith(f"{path}{'' if words.startswith(':') else ' '}{words}")


def test_missing_bytes_are_counted(tmp_path):
    (tmp_path / "m.gguf").write_bytes(WHOLE[:-9])
    assert modelfile.check(tmp_path / "m.gguf").detail.endswith("the file is truncated by 9 bytes")


def test_what_only_our_reader_refuses_is_left_to_llama_server(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(header([text("new") + b"\x4d\0\0\0" + bytes(40)]))
    seen = modelfile.look(path)
    assert (seen.cause, seen.header) == (None, None)
    assert "type 77" in seen.doubt


def test_every_kind_of_error_has_its_cause():
    assert set(modelfile.CAUSES) == set(get_args(Kind))


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
