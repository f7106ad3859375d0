import gzip
import json
import re

import pytest

from supervisor.errors import BuildError
from supervisor.proc.building import source
from supervisor.proc.building.progress import Silent
from tests.support import fake_build


class Fetcher:
    """Copies the archive, and counts."""

    def __init__(self, origin):
        self.origin = origin
        self.count = 0

    def __call__(self, pin, target, progress, lock):
        self.count += 1
        target.write_bytes((self.origin / pin.filename).read_bytes())


@pytest.fixture
def place(tmp_path):
    cache, root = tmp_path / "cache", tmp_path / "project"
    cache.mkdir()
    root.mkdir()
    return cache, root, Fetcher(tmp_path / "index")


def vendored(place, pin):
    cache, root, fetch = place
    return source.vendored(pin, cache, root, Silent(), fetch)


def test_the_pin_is_a_whole_one():
    assert re.fullmatch(r"[0-9a-f]{64}", source.PIN.sha256)
    assert source.PIN.filename == "llama_cpp_python-0.3.36.tar.gz"


def test_only_llama_cpp_is_unpacked_without_its_git_pointer(tmp_path, place):
    target = vendored(place, fake_build.sdist(tmp_path / "index"))
    assert target == tmp_path / "project" / "vendor" / "llama.cpp"
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {*fake_build.FILES, source.STAMP}
    assert [path.name for path in target.parent.iterdir()] == ["llama.cpp"]


def test_a_second_use_fetches_and_unpacks_nothing(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    (vendored(place, pin) / "mark").touch()
    assert (vendored(place, pin) / "mark").exists()
    assert place[2].count == 1


def test_a_second_checkout_unpacks_the_archive_of_the_cache(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    vendored(place, pin)
    other = tmp_path / "other"
    assert source.is_llama_cpp(source.vendored(pin, place[0], other, Silent(), place[2]))
    assert place[2].count == 1


def test_without_a_checkout_the_cache_holds_the_source(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    assert source.vendored(pin, place[0], None, Silent(), place[2]) == place[0] / "source" / "llama.cpp"


@pytest.mark.parametrize("stamp", [None, "{", json.dumps({"project": "fake-llama", "version": "0.9"})])
def test_a_folder_with_another_stamp_or_none_is_replaced(tmp_path, place, stamp):
    pin = fake_build.sdist(tmp_path / "index")
    target = tmp_path / "project" / "vendor" / "llama.cpp"
    fake_build.llama_cpp(target)
    (target / "stale").touch()
    (target.parent / ".llama.cpp.new").mkdir()  # a killed unpacking
    if stamp is not None:
        (target / source.STAMP).write_text(stamp)
    vendored(place, pin)
    assert not (target / "stale").exists()
    assert source.stamped(target, pin)
    assert [path.name for path in target.parent.iterdir()] == ["llama.cpp"]


def test_a_tampered_archive_is_refused_named_and_set_aside(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    cache, root, _ = place
    archive = cache / pin.filename
    archive.write_bytes(b"tampered")
    with pytest.raises(BuildError) as caught:
        vendored(place, pin)
    assert f"expected sha256 {pin.sha256}, got {source.sha256(cache / (pin.filename + '.bad'))}" in str(
        caught.value
    )
    assert not archive.exists()
    assert not (root / "vendor").exists()
    assert source.is_llama_cpp(vendored(place, pin))  # the next run fetches it


def test_a_damaged_archive_with_the_pinned_hash_is_an_error_in_one_line(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    whole = (tmp_path / "index" / pin.filename).read_bytes()
    archive = place[0] / pin.filename
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BuildError, match="cannot be unpacked"):
        source.unpack(archive, pin, tmp_path / "target", Silent())
    archive.write_bytes(gzip.compress(b"no tar" * 100))
    with pytest.raises(BuildError, match="cannot be unpacked"):
        source.unpack(archive, pin, tmp_path / "target", Silent())
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("extra", "links"),
    [
        ({"fake_llama-1.0/vendor/llama.cpp/../../../../escaped": "x"}, {}),
        ({}, {"link": "/etc"}),
        ({}, {"link": "../../../outside"}),
    ],
)
def test_nothing_leaves_the_folder(tmp_path, place, extra, links):
    pin = fake_build.sdist(tmp_path / "index", extra, links)
    with pytest.raises(BuildError, match="cannot be unpacked"):
        vendored(place, pin)
    assert not (tmp_path / "project" / "vendor" / "llama.cpp").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_without_llama_cpp_is_refused(tmp_path, place):
    pin = fake_build.sdist(tmp_path / "index")
    archive = tmp_path / "index" / pin.filename
    other = source.Sdist("fake-llama", "1.0", pin.sha256, 1, "elsewhere", "", "x")
    with pytest.raises(BuildError, match=r"holds no llama\.cpp"):
        source.unpack(archive, other, tmp_path / "target", Silent())


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path, place, monkeypatch):
    monkeypatch.setattr(source.folders, "free_bytes", lambda _: 1)
    with pytest.raises(BuildError, match="0 MiB are free"):
        vendored(place, fake_build.sdist(tmp_path / "index"))
    assert place[2].count == 0


def test_a_scratch_folder_is_empty_at_first_and_gone_at_last(tmp_path):
    left = tmp_path / "work"
    left.mkdir()
    (left / "old").touch()
    with source.scratch(left) as work:
        assert list(work.iterdir()) == []
    assert not left.exists()
