from types import SimpleNamespace

import pytest

from supervisor.doctor import models
from supervisor.proc.machine import Memory
from supervisor.types import GIB, MIB
from tests.support import gguf
from tests.support.proc import spec


def looks(*, server=None, limit_mb=2048, there=None, running=()):
    there = there or Memory(64 * GIB, 64 * GIB)
    return models.Models(
        server, limit_mb=limit_mb, min_free_mb=0, running=frozenset(running), measure=lambda: there
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf.model())
    return path


def check(it, path, **changes):
    return list(it.check(spec(path=str(path), **{"cache_ram_mb": 0, **changes})))


def levels(found):
    return [finding.level for finding in found]


def test_a_good_model_is_described_and_its_memory_told(path):
    told, chat, fits = check(looks(), path)
    assert (told.level, chat.level, fits.level) == ("ok", "warn", "ok")
    assert f"{path}: llama, f32" in told.detail
    assert "no chat template" in chat.detail
    assert "takes 3" in fits.detail
    assert fits.detail.endswith("memory.limit_mb is 2048")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "model_missing: "),
        (b"", "model_corrupt: "),
        (b"PK\3\4", "is not a GGUF file"),
        (gguf.model()[:-9], "truncated by 9 bytes"),
        (gguf.header(version=7), "model_unsupported: "),
    ],
)
def test_a_file_that_cannot_be_served_is_named_with_what_to_do(tmp_path, content, words):
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    (found,) = check(looks(), tmp_path / "m.gguf")
    assert (found.level, words in found.detail, bool(found.remedy)) == ("fail", True, True)


def test_a_doubt_is_a_warning_and_a_model_without_weights_a_failure(path):
    path.write_bytes(gguf.header([gguf.text("new") + b"\x4d\0\0\0" + bytes(40)]))
    assert levels(check(looks(), path)) == ["warn"]
    path.write_bytes(gguf.MINIMAL)
    assert levels(check(looks(), path)) == ["ok", "fail"]


def test_more_context_than_it_was_trained_with(path):
    found = check(looks(limit_mb=64_000), path, context_size=65536, parallel=4)
    assert any("trained with 8192" in one.detail and "32768" in one.remedy for one in found)


def test_models_count_together_and_one_that_runs_is_not_counted_twice(path):
    it = looks(limit_mb=60)
    assert check(it, path)[-1].level == "ok"
    second = check(it, path, name="second")[-1]
    assert second.level == "fail"
    assert "the other models hold" in second.detail
    tight = Memory(64 * GIB, 10 * MIB)
    assert check(looks(there=tight), path)[-1].level == "fail"
    assert check(looks(there=tight, running=["demo"]), path)[-1].level == "ok"


def test_a_cache_type_nobody_knows(path):
    assert "q9" in check(looks(), path, args=("-ctk", "q9"))[-1].detail


@pytest.mark.parametrize(
    ("where", "content", "expected"),
    [
        ("bin/llama-server", b"..unknown model architecture: '%s'\0..llama\0", True),
        ("bin/libllama.so", b"unknown model architecture\0falcon\0", False),
        ("lib/libllama.so", b"unknown model architecture\0llama\0", True),
        ("bin/llama-server", b"#!/bin/sh", None),
    ],
)
def test_whether_the_binary_knows_the_architecture(tmp_path, path, where, content, expected):
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin" / "llama-server"
    program.write_bytes(b"\x7fELF")
    (tmp_path / where).write_bytes(content)
    assert models.knows(program, "llama") is expected
    found = check(looks(server=SimpleNamespace(path=program)), path)
    assert any("does not know the architecture 'llama'" in one.detail for one in found) == (expected is False)


def test_a_binary_that_is_not_there(tmp_path):
    finding, found = models.llama_server(str(tmp_path / "none"))
    assert (finding.level, found, "llmsup build" in finding.remedy) == ("fail", None, True)
