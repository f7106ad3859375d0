"""The file of keys, ``keys.json`` in the state folder. The command writes it, the daemon reads it.

Invariants: a reader sees the old list or the new one; one writer at a time (a kernel lock); nobody else may
have written it; no symbolic link is followed (FAULTS 54). Whoever finds it broken changes nothing.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.errors import Conflict, LlmsupError, NotFound, PermissionDenied
from supervisor.keys import key as keys
from supervisor.keys.key import Key

FILE_NAME = "keys.json"
LOCK_NAME = "keys.lock"
PRIVATE, PRIVATE_DIR = 0o600, 0o700
MAX_BYTES = 16 << 20  # some 40,000 keys
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not waiting for the writer of a pipe

Stamp = tuple[int, int, int, int, int]


class BrokenKeyFile(LlmsupError):
    """The list of keys cannot be believed."""

    code = "key_file_broken"


@dataclass(frozen=True, slots=True)
class Content:
    """``stamp``: of the very file that was read; None where there is none."""

    keys: tuple[Key, ...] = ()
    stamp: Stamp | None = None


def stamp_of(facts: os.stat_result) -> Stamp:
    """Changes with everything that is done to a file."""
    return (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_mode)


def stamp(path: Path) -> Stamp | None:
    """Of what lies there now. Raises OSError but for a missing file."""
    try:
        return stamp_of(os.lstat(path))
    except FileNotFoundError:
        return None


def read(path: Path, *, managing: bool = False) -> Content:
    """The keys; none where there is no file. ``managing``: for root's command, which may look after another user's
    daemon: whose the folder is, theirs may be the file too.

    Raises:
        BrokenKeyFile: it cannot be read, is a link, may have been written by others, or makes no sense.
    """
    hint = f"mend or remove {path}; until then no key is accepted"
    try:
        with open(os.open(path, _READ), "rb") as file:
            facts = os.fstat(file.fileno())
            owners = {0, os.geteuid()}
            if managing and os.geteuid() == 0:
                owners.add(os.stat(path.parent).st_uid)
            if not stat.S_ISREG(facts.st_mode):
                raise BrokenKeyFile(f"{path} is not a regular file", hint=hint)
            if facts.st_uid not in owners:
                whose = f"{path} belongs to uid {facts.st_uid}, not to this user (uid {os.geteuid()}) or root"
                raise BrokenKeyFile(whose, hint=f"{hint} (chown {os.geteuid()} {shlex.quote(str(path))})")
            if facts.st_mode & WRITABLE_BY_OTHERS:
                mode = f"mode {stat.S_IMODE(facts.st_mode):o}"
                raise BrokenKeyFile(
                    f"others may have written {path} ({mode})",
                    hint=f"{hint} (chmod 600 {shlex.quote(str(path))})",
                )
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Content()
    except OSError as exc:
        link = exc.errno == errno.ELOOP
        broken = BrokenKeyFile(
            f"{path} {'is a symbolic link' if link else f'cannot be read: {exc.strerror}'}", hint=hint
        )
        if isinstance(exc, PermissionError):
            broken.exit_code = PermissionDenied.exit_code
        raise broken from exc
    if len(data) > MAX_BYTES:
        raise BrokenKeyFile(f"{path} is larger than {MAX_BYTES} bytes", hint=hint)
    try:
        return Content(keys.parse(data), stamp_of(facts))
    except ValueError as exc:
        raise BrokenKeyFile(f"{path}: {exc}", hint=hint) from exc


def create(path: Path, wanted: Key) -> tuple[str, Key]:
    """A new key with ``wanted``'s name and rights, and its text, which is not to be had again.

    Raises:
        Conflict: there is one of that name.
        BrokenKeyFile, PermissionDenied, LlmsupError: the list cannot be read or written.
    """
    with _changing(path) as present:
        if any(key.name == wanted.name for key in present):
            raise Conflict(f"there is a key named {wanted.name!r}", hint=f"llmsup keys revoke {wanted.name}")
        taken = {key.id for key in present}
        key_id = next(one for one in iter(lambda: secrets.token_hex(keys.ID_BYTES), None) if one not in taken)
        text = keys.token(key_id, secrets.token_urlsafe(keys.SECRET_BYTES))
        made = replace(wanted, id=key_id, digest=keys.digest(text.encode()))
        _write(path, keys.dump([*present, made]))
    return text, made


def revoke(path: Path, name: str) -> Key:
    """Take the key of that name or id out of the list.

    Raises:
        NotFound: there is none.
        BrokenKeyFile, PermissionDenied, LlmsupError: the list cannot be read or written.
    """
    with _changing(path) as present:
        gone = next((key for key in present if name in {key.name, key.id}), None)
        if gone is None:
            raise NotFound(f"there is no key {name!r}", hint="see: llmsup keys list")
        _write(path, keys.dump(key for key in present if key is not gone))
    return gone


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[tuple[Key, ...]]:
    """The keys there are, with nobody else changing them."""
    try:
        path.parent.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(path.with_name(LOCK_NAME), flags, PRIVATE)
        try:
            _hand_over(lock, path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield read(path, managing=True).keys
        finally:
            os.close(lock)
    except OSError as exc:
        said = f"{exc.filename or path}: {exc.strerror}"
        if not isinstance(exc, PermissionError):  # a full disk; a link where the lock should be
            raise LlmsupError(said) from exc
        raise PermissionDenied(said, hint="run the command as the user that runs llmsup") from exc


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # what a killed writer left, or somebody planted
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(fresh, flags, PRIVATE), "wb") as file:
        _hand_over(file.fileno(), path.parent)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hand_over(descriptor: int, folder: Path) -> None:
    """What root's command makes for another user's daemon is that user's."""
    owner = os.stat(folder)
    if os.geteuid() == 0 and owner.st_uid:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
