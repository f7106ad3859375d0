"""The daemon's run folder: lock, control socket, pid. Imports nothing heavy: the command uses it too.

The lock is a kernel lock (flock) on a file that is never removed; it falls with its holder, however that
ends, so it alone says whether a daemon lives. The pid inside is for people.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.errors import Conflict, PermissionDenied

PRIVATE_DIR = 0o700


class RunDir:
    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "run"
        self.lock_path = self.path / "llmsup.lock"
        self.socket_path = self.path / "control.sock"

    def create(self) -> None:
        """Make the folder, private to this user.

        Raises:
            PermissionDenied: it cannot be made, or is another user's.
        """
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
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = self.pid()
                raise Conflict(
                    f"llmsup is already running{f' (pid {pid})' if pid else ''}",
                    hint="see: llmsup status; to begin anew: llmsup stop",
                ) from None
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
            yield
        finally:
            os.close(fd)

    def running(self) -> bool:
        """Whether a daemon holds the lock now. (A moment's shared lock would be noticed by none.)"""
        try:
            fd = os.open(self.lock_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except PermissionError as exc:
            raise PermissionDenied(
                f"{self.lock_path}: {exc.strerror}", hint="run the command as the user that runs llmsup"
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def pid(self) -> int | None:
        """What the holder wrote; good for a message, never for a signal."""
        try:
            return int(self.lock_path.read_text().strip() or 0) or None
        except (OSError, ValueError):
            return None
