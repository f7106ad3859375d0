import json
import os
from dataclasses import replace

import pytest

from supervisor.proc.building import folders, published
from supervisor.proc.building.published import Record
from supervisor.proc.building.recipe import Inputs
from tests.support import fake_build

INPUTS = Inputs("sha", "cpu", ("-DA=1",), "x86_64", "abc", "gcc 12")


def publish(builds, inputs=INPUTS, *, asked=1000):
    record = Record(
        inputs.key(),
        "9.9",
        inputs.backend,
        inputs.flags,
        "src",
        inputs.source_hash,
        inputs.machine,
        inputs.cpu,
        inputs.compiler,
        "2026-01-01T00:00:00+00:00",
        1.5,
    )
    folder = builds / inputs.key()
    fake_build.script(folder / "bin" / "llama-server", fake_build.SERVER_SCRIPT)
    (folder / "build.json").write_text(json.dumps(record.to_json()))
    os.utime(folder / "build.json", (asked, asked))
    return published.Published(record, folder)


def test_a_build_is_found_by_what_it_was_made_from(tmp_path):
    item = publish(tmp_path)
    assert published.find(tmp_path, INPUTS) == item
    assert published.find(tmp_path, replace(INPUTS, compiler="gcc 13")) is None
    assert published.find(tmp_path / "none", replace(INPUTS, compiler="")) is None


def test_without_a_compiler_any_compilers_build_will_do(tmp_path):
    publish(tmp_path)
    newer = publish(tmp_path, replace(INPUTS, compiler="clang"), asked=2000)
    publish(tmp_path, replace(INPUTS, cpu="other"), asked=3000)
    assert published.find(tmp_path, replace(INPUTS, compiler="")) == newer


@pytest.mark.parametrize(
    "damage", ["binary gone", "not executable", "no record", "cut short", "other key", "bad type"]
)
def test_a_build_that_is_not_whole_is_none(tmp_path, damage):
    item = publish(tmp_path)
    record = item.folder / "build.json"
    match damage:
        case "binary gone":
            item.server.unlink()
        case "not executable":
            item.server.chmod(0o644)
        case "no record":
            record.unlink()
        case "cut short":
            record.write_text(record.read_text()[:40])
        case "other key":
            record.write_text(json.dumps(replace(item.record, key="x").to_json()))
        case _:
            record.write_text(json.dumps(item.record.to_json() | {"seconds": "long"}))
    assert published.read(item.folder) is None
    assert published.newest_first(tmp_path) == []


@pytest.mark.parametrize("content", [None, [], {}, {"flags": [], "seconds": 1}, {"flags": 1, "seconds": 1}])
def test_anything_else_is_no_record(content):
    assert published.from_json(content) is None


def test_the_one_asked_for_last_is_first(tmp_path):
    old = publish(tmp_path)
    new = publish(tmp_path, replace(INPUTS, backend="cuda"), asked=2000)
    (tmp_path / ".building-x").mkdir()
    assert published.newest_first(tmp_path) == [new, old]
    published.touch(old)
    assert published.newest_first(tmp_path) == [old, new]


def test_old_trees_go_unless_somebody_works_in_them(tmp_path):
    now = 10_000_000.0
    for key, age in (("old", 2), ("young", 0.5), ("kept", 2), ("busy", 2)):
        tree = tmp_path / f".building-{key}"
        tree.mkdir()
        os.utime(tree, (now - age * published.STALE_TREE_S,) * 2)
    with folders.exclusive(tmp_path / ".lock-busy", lambda: None):
        published.sweep(tmp_path, keep="kept", now_s=now)
    assert sorted(path.name for path in tmp_path.glob(".building-*")) == [
        ".building-busy",
        ".building-kept",
        ".building-young",
    ]
