"""A llama.cpp folder the user names: what it is and a hash of what would be compiled. Never changed."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import BuildError
from supervisor.proc.building import source, subcommand

# Large or changing, and no part of the programs.
_SKIPPED_TOP = ("build", "models", "docs", "media", ".")
_SKIPPED_SUFFIXES = (".gguf", ".o", ".pyc")
GIT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Checkout:
    path: Path
    label: str  # for people: the path, and the commit if there is one
    digest: str


def identify(path: Path) -> Checkout:
    """Check that `path` is llama.cpp and hash it: commit and changes in a git checkout, else all files.

    Raises:
        BuildError: it is missing or something else.
        OSError: a file cannot be read.
    """
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise BuildError(f"{path} is not a folder", hint="--source wants a folder with llama.cpp's source")
    if not source.is_llama_cpp(path):
        raise BuildError(
            f"{path} is not llama.cpp: it lacks CMakeLists.txt or tools/server",
            hint="--source wants the top folder of llama.cpp's source",
        )
    if state := _git_state(path):
        commit, changes = state
        changed = "+changes" if changes else ""
        return Checkout(path, f"{path} at {commit[:9]}{changed}", f"git:{commit}:{changes}")
    return Checkout(path, str(path), f"tree:{hash_tree(path)}")


def hash_tree(root: Path) -> str:
    """SHA-256 over relative path, size and content of every file that can matter."""
    digest = hashlib.sha256()
    for path in _files(root):
        if path.is_symlink():
            content = os.fsencode(os.readlink(path))
        elif path.is_file():
            content = path.read_bytes()
        else:
            continue
        name = os.fsencode(path.relative_to(root))
        digest.update(b"%d %d " % (len(name), len(content)) + name + content)
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if not name.startswith(_SKIPPED_TOP)]
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (here / name for name in sorted(files) if not name.endswith(_SKIPPED_SUFFIXES))


def _git_state(path: Path) -> tuple[str, str] | None:
    """The commit, and a hash of what differs from it ("" when nothing does); None: not the top of a checkout."""
    commit = _git(path, "rev-parse", "HEAD")
    top = _git(path, "rev-parse", "--show-toplevel")
    if commit is None or top is None or Path(top.strip()).resolve() != path.resolve():
        return None
    diff = _git(path, "diff", "--no-ext-diff", "--binary", "HEAD")
    untracked = _git(path, "ls-files", "--others", "--exclude-standard", "-z")
    if diff is None or untracked is None:
        return None
    new = [path / name for name in untracked.split("\0") if name]
    if not diff and not new:
        return commit.strip(), ""
    digest = hashlib.sha256(diff.encode())
    for file in new:
        digest.update(os.fsencode(file) + b"\0" + (file.read_bytes() if file.is_file() else b""))
    return commit.strip(), digest.hexdigest()[:16]


def _git(path: Path, *words: str) -> str | None:
    """Git's answer, or None when there is no git, no repository, or git does not trust it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Even `git diff` refreshes the index unless told not to, and the folder is not ours to change.
    env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subcommand.capture(["git", "-C", str(path), *words], env=env, timeout_s=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
