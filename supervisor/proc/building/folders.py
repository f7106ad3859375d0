"""The cache folder, and the moves that keep what lies in it whole.

Invariant: a file or folder under its own name is complete; whatever begins with a dot may not be.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from supervisor.errors import BuildError, LlmsupError, PermissionDenied

CACHE_HINT = "set LLMSUP_CACHE_DIR to a folder that can be written"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`$LLMSUP_CACHE_DIR`, else `$XDG_CACHE_HOME/llmsup`, else `~/.cache/llmsup`; absolute, perhaps not there yet.

    The XDG Base Directory Specification 0.8 has a relative $XDG_CACHE_HOME ignored.
    """
    env = os.environ if environ is None else environ
    if own := env.get("LLMSUP_CACHE_DIR"):
        return Path(os.path.abspath(os.path.expanduser(own)))
    xdg = env.get("XDG_CACHE_HOME", "")
    home = env.get("HOME") or os.path.expanduser("~")
    return (Path(xdg) if os.path.isabs(xdg) else Path(home, ".cache")) / "llmsup"


def builds_dir(cache: Path) -> Path:
    """Where builds are published, one folder a key."""
    return cache / "llama.cpp"


def project_root(module: str = __file__) -> Path | None:
    """The checkout this package runs from (it holds `pyproject.toml` and can be written), or None when installed."""
    root = Path(module).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and os.access(root, os.W_OK) else None


def discard(path: Path) -> None:
    """Remove a file or a whole folder; absent is fine. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target`; the caller holds the lock that guards `target`.

    A folder cannot be renamed over a full one, so for a moment there is none. Killed just then, the
    next run finds nothing under the name and makes it again.
    """
    old = target.with_name(f".{target.name}.old")
    discard(old)
    if target.exists():
        os.rename(target, old)
    os.rename(fresh, target)
    discard(old)


def write_atomic(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Mapping[str, object] | None:
    """The object in the file, or None when it is missing, unreadable, cut short or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock file `path`; calls `on_wait` once when somebody else holds it. Yields its descriptor.

    A child process that inherits the descriptor keeps the lock: compilers that outlive a killed
    `llmsup build` for a few seconds thus keep the next one out of their folder. The file is never
    removed, because two processes could then hold locks on two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def free_bytes(path: Path) -> int:
    """Free space where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def from_os_error(error: OSError) -> LlmsupError:
    """The one place where the file system's complaints become ours."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return BuildError(f"the disk is full{where}", hint="free some space, then run it again: it continues")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDenied(f"cannot write: {error.strerror}{where}", hint=CACHE_HINT)
    return BuildError(f"the file system refuses: {error.strerror or error}{where}", hint=CACHE_HINT)
