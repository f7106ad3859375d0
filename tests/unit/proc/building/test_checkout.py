import subprocess

import pytest

from supervisor.errors import BuildError
from supervisor.proc.building import checkout
from tests.support import fake_build


def git(folder, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


def test_what_is_not_llama_cpp_is_refused(tmp_path):
    with pytest.raises(BuildError, match="is not a folder"):
        checkout.identify(tmp_path / "none")
    with pytest.raises(BuildError, match=r"lacks CMakeLists.txt or tools/server"):
        checkout.identify(tmp_path)


def test_a_plain_folder_is_hashed_by_names_and_contents(tmp_path):
    folder = fake_build.llama_cpp(tmp_path / "llama.cpp")
    first = checkout.identify(folder)
    assert first.digest.startswith("tree:")
    (folder / "build").mkdir()
    (folder / "build" / "x.cpp").write_text("built")
    (folder / "ggml-vocab.gguf").write_text("large")
    assert checkout.identify(folder) == first
    (folder / "tools" / "server" / "s.cpp").write_text("int main(){ }\n")
    changed = checkout.identify(folder)
    assert changed.digest != first.digest
    (folder / "tools" / "server" / "s.cpp").rename(folder / "tools" / "server" / "t.cpp")
    assert checkout.identify(folder).digest != changed.digest


def test_a_link_counts_by_where_it_points(tmp_path):
    folder = fake_build.llama_cpp(tmp_path / "llama.cpp")
    (folder / "link.h").symlink_to("a.h")
    first = checkout.hash_tree(folder)
    (folder / "link.h").unlink()
    (folder / "link.h").symlink_to("b.h")
    assert checkout.hash_tree(folder) != first


def test_a_git_checkout_is_its_commit_and_what_differs_from_it(tmp_path):
    folder = fake_build.llama_cpp(tmp_path / "llama.cpp")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    index = (folder / ".git" / "index").read_bytes()
    clean = checkout.identify(folder)
    assert clean.digest.startswith("git:")
    assert clean.digest.endswith(":")
    (folder / "CMakeLists.txt").write_text("changed\n")
    dirty = checkout.identify(folder)
    (folder / "new.cpp").write_text("new\n")
    with_new = checkout.identify(folder)
    assert len({clean.digest, dirty.digest, with_new.digest}) == 3
    assert dirty.label.endswith("+changes")
    assert (folder / ".git" / "index").read_bytes() == index


def test_a_folder_inside_another_repository_is_not_that_repository(tmp_path):
    git(tmp_path, "init", "-q")
    folder = fake_build.llama_cpp(tmp_path / "vendor" / "llama.cpp")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert checkout.identify(folder).digest.startswith("tree:")
