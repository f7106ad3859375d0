"""The daemon's run folder: lock, control socket, pid. Imports nothing heavy: the command uses it too.

The lock is a kernel lock (flock) on a file that is never removed; it falls with its holder, however that
ends, so it alone says whether a daemon lives. The pid inside is for people.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.errors import Conflict, PermissionDenied
from supervisor.proc import lifelock
from supervisor.unixsocket import SUN_PATH_MAX

PRIVATE_DIR = 0o700
LOCK_TRIES, LOCK_PAUSE_S = 5, 0.01  # `running` holds the lock for a moment, a daemon for good


class RunDir:
    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "run"
        self.lock_path = self.path / "llmsup.lock"
        self.socket_path = self.path / "control.sock"
        self._held: list[int] | None = None  # descriptors of locks, while `locked`

    def create(self) -> None:
        """Make the folder, private to this user.

        Raises:
            PermissionDenied: it cannot be made, is another user's, or its path is too long.
        """
        if len(os.fsencode(self.socket_path)) > SUN_PATH_MAX:
            raise PermissionDenied(
                f"{self.socket_path} is too long for a socket ({SUN_PATH_MAX} bytes at most)",
                hint="set state_dir in the configuration to a shorter path",
            )
        try:
            self.path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            owner = self.path.stat().st_uid
            if owner == os.geteuid():
                self.path.chmod(PRIVATE_DIR)
        except OSError as exc:
            raise PermissionDenied(
                f"{self.path}: {exc.strerror}", hint="set state_dir in the configuration to a folder of yours"
            ) from exc
        if owner != os.geteuid():
            raise PermissionDenied(
                f"{self.path} belongs to another user", hint="set state_dir in the configuration"
            )

    def restore(self) -> None:
        """The daemon's: somebody removed the folder, and with it the lock that others look at. Hold a new one too."""
        self.create()
        if self._held is None or self.lock_path.exists():
            return
        fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _lock(fd):
            os.close(fd)
            raise Conflict(f"another llmsup has begun in {self.path} since it was removed")
        os.write(fd, b"%d\n" % os.getpid())
        self._held.append(fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one daemon of this folder.

        Raises:
            Conflict: another one is.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.lock_path, flags, 0o600)
        except OSError as exc:
            raise PermissionDenied(f"{self.lock_path}: {exc.strerror}") from exc
        held = [fd]
        try:
            if not _lock(fd):
                pid = self.pid()
                raise Conflict(
                    f"llmsup is already running{f' (pid {pid})' if pid else ''}",
                    hint="see: llmsup status; to begin anew: llmsup stop",
                )
            with contextlib.suppress(OSError):  # a full disk: the pid is for people, the lock is what counts
                os.ftruncate(fd, 0)
                os.write(fd, b"%d\n" % os.getpid())
            self._held = held
            yield
        finally:
            self._held = None
            for each in held:
                os.close(each)

    def running(self) -> bool:
        """Whether a daemon holds the lock now."""
        try:
            return lifelock.held(self.lock_path)
        except FileNotFoundError:
            return False
        except PermissionError as exc:
            raise PermissionDenied(
                f"{self.lock_path}: {exc.strerror}", hint="run the command as the user that runs llmsup"
            ) from exc

    def pid(self) -> int | None:
        """What the holder wrote; good for a message, never for a signal."""
        try:
            return int(self.lock_path.read_text().strip() or 0) or None
        except (OSError, ValueError):
            return None


def _lock(fd: int) -> bool:
    for turn in range(LOCK_TRIES):
        if turn:
            time.sleep(LOCK_PAUSE_S)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
