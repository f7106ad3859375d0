import json
import sys
from datetime import UTC, datetime

import pytest

from supervisor.errors import BuildError, PermissionDenied
from supervisor.proc.building import build, compilation, folders, source
from supervisor.proc.building.build import Builder, Request
from supervisor.proc.building.toolchain import Backend
from tests.support import fake_build

CPU = Request(Backend.CPU, jobs=1)


class FakeClock:
    def now(self):
        return 5.0

    def wall(self):
        return datetime(2026, 1, 1, tzinfo=UTC)

    async def sleep(self, seconds):
        raise AssertionError


class Seen:
    terminal = False

    def __init__(self):
        self.said = []
        self.steps = []

    def say(self, text):
        self.said.append(text)

    def step(self, done, total):
        self.steps.append((done, total))


class Bench:
    """A machine with the fake tools, an index with a fake archive and a log of what ran."""

    def __init__(self, tmp_path, monkeypatch):
        self.path = tmp_path
        self.log = tmp_path / "log"
        self.seen = Seen()
        self.pin = fake_build.sdist(tmp_path / "index")
        self.environ = {"FAKE_LOG": str(self.log)}
        self.bin = fake_build.tools(tmp_path / "bin")
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # nothing is found beside it
        (tmp_path / "project").mkdir()

    def build(self, request=CPU, cache="cache", root="project"):
        self.seen = Seen()
        builder = Builder(
            clock=FakeClock(),
            progress=self.seen,
            fetch=self.fetch,
            pin=self.pin,
            cache=self.path / cache,
            root=self.path / root,
            environ=self.environ,
        )
        return builder.build(request)

    def fetch(self, pin, target, progress, lock):
        self.note("fetch")
        target.write_bytes((self.path / "index" / pin.filename).read_bytes())

    def note(self, text):
        with self.log.open("a") as file:
            file.write(text + "\n")

    def ran(self):
        """What ran since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def builds(self):
        return self.path / "cache" / "llama.cpp"

    def tree(self):
        (tree,) = self.builds().glob(".building-*")
        return tree


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


WHOLE = ["fetch", "configure", "compile -j1", "step 1", "step 2", "step 3"]


def test_a_build_is_fetched_compiled_and_published(bench):
    built = bench.build()
    assert built.fresh
    assert bench.ran() == WHOLE
    assert bench.seen.steps == [(1, 3), (2, 3), (3, 3)]
    folder = built.item.folder
    assert {path.name for path in folder.iterdir()} == {"bin", "build.json", "build.log"}
    assert {path.name for path in (folder / "bin").iterdir()} == {"llama-server", "llama-fit-params"}
    record = json.loads((folder / "build.json").read_text())
    assert record["version"] == "9.9 (build 1, commit abc)"
    assert record["built_at"] == "2026-01-01T00:00:00+00:00"
    assert (record["backend"], record["source"], record["key"]) == ("cpu", "fake-llama 1.0", folder.name)
    assert "-DLLAMA_BUILD_COMMIT=abc" in record["flags"]
    assert source.is_llama_cpp(bench.path / "project" / "vendor" / "llama.cpp")
    assert not list(bench.builds().glob(".building-*"))


def test_a_second_checkout_builds_and_fetches_nothing(bench):
    first = bench.build()
    bench.ran()
    again = bench.build(root="other")
    assert not again.fresh
    assert again.item == first.item
    assert bench.ran() == []


def test_a_machine_without_tools_uses_what_was_built(bench):
    first = bench.build()
    (bench.bin / "cmake").unlink()
    assert bench.build().item == first.item


def test_what_is_missing_is_said_at_once_with_a_command(bench):
    (bench.bin / "cmake").unlink()
    (bench.bin / "ninja").unlink()
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert str(caught.value).startswith(
        "cannot build llama-server: no cmake found, neither ninja nor make found (inst"
    )
    assert len(caught.value.detail.splitlines()) == 2
    assert bench.ran() == []
    assert not (bench.path / "cache").exists()


def test_a_binary_that_does_not_run_is_built_again(bench):
    built = bench.build()
    fake_build.script(built.item.server, "#!/bin/sh\nkill -ILL $$\n")
    bench.ran()
    assert bench.build().fresh
    assert bench.ran() == WHOLE[1:]
    assert "SIGILL" in bench.seen.said[0]


def test_force_compiles_all_anew(bench):
    bench.build()
    bench.ran()
    assert bench.build(Request(Backend.CPU, jobs=1, force=True)).fresh
    assert bench.ran() == WHOLE[1:]


def test_a_failure_names_the_log_and_shows_its_end(bench):
    bench.environ["FAKE_FAIL"] = "a.cpp:1: error: expected ';'"
    with pytest.raises(BuildError) as caught:
        bench.build()
    log = bench.tree() / compilation.LOG
    assert str(log) in str(caught.value)
    assert caught.value.detail.endswith("[1/3] Building CXX object 1.o\na.cpp:1: error: expected ';'")
    assert log.read_text().startswith("-- Configuring done")


def test_what_failed_continues_where_it_stopped(bench):
    bench.environ["FAKE_FAIL"] = "No space left on device"
    with pytest.raises(BuildError, match="the disk is full"):
        bench.build()
    del bench.environ["FAKE_FAIL"]
    bench.ran()
    assert bench.build().fresh
    assert bench.ran() == ["configure", "compile -j1", "step 2", "step 3"]
    assert "continuing the build that was interrupted" in bench.seen.said


def test_a_damaged_tree_is_started_anew_once(bench):
    bench.environ["FAKE_FAIL"] = "1.o: file truncated"
    for expected in (1, 2):
        bench.ran()
        with pytest.raises(BuildError):
            bench.build()
        assert bench.ran().count("configure") == expected


def test_a_tree_of_another_checkout_is_not_continued(bench):
    bench.environ["FAKE_FAIL"] = "stop"
    with pytest.raises(BuildError):
        bench.build()
    del bench.environ["FAKE_FAIL"]
    bench.ran()
    bench.build(root="other")
    assert bench.ran() == WHOLE[1:]


def test_leftovers_of_a_killed_publication_are_replaced(bench):
    key = bench.build().item.folder.name
    for left in (f".publishing-{key}", f".{key}.old"):
        (bench.builds() / left / "bin").mkdir(parents=True)
    (bench.builds() / key / "build.json").unlink()
    assert bench.build().fresh
    assert sorted(path.name for path in bench.builds().iterdir()) == [f".lock-{key}", key]


def test_a_named_source_is_built_where_it_lies_and_left_as_it_is(bench):
    folder = fake_build.llama_cpp(bench.path / "mine")
    before = sorted(folder.rglob("*"))
    built = bench.build(Request(Backend.CPU, source=folder, jobs=2))
    assert bench.ran() == ["configure", "compile -j2", "step 1", "step 2", "step 3"]
    assert sorted(folder.rglob("*")) == before
    assert built.item.record.source == str(folder)
    (folder / "CMakeLists.txt").write_text("changed")
    assert bench.build(Request(Backend.CPU, source=folder, jobs=2)).item.folder != built.item.folder


def test_an_older_source_has_no_fit_params(bench):
    folder = fake_build.llama_cpp(bench.path / "mine")
    (folder / "tools" / "fit-params" / "f.cpp").unlink()
    (folder / "tools" / "fit-params").rmdir()
    built = bench.build(Request(Backend.CPU, source=folder))
    assert [path.name for path in (built.item.folder / "bin").iterdir()] == ["llama-server"]


def test_too_little_space_is_said_before_compiling(bench, monkeypatch):
    bench.build()  # the source is there
    bench.ran()
    monkeypatch.setattr(folders, "free_bytes", lambda _: 1000)
    with pytest.raises(BuildError, match="the build needs 256 MiB in"):
        bench.build(Request(Backend.CPU, force=True))
    assert bench.ran() == []


def test_a_cache_that_cannot_be_written_is_a_question_of_permission(bench, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(build.folders, "exclusive", refuse)
    with pytest.raises(PermissionDenied, match="LLMSUP_CACHE_DIR"):
        bench.build()
