"""UNIX sockets with a path: put in place, found to be living or dead, and whose process is at the other end.

Invariant: a path is never without its socket while that is replaced, a socket never has wider permissions than were
asked for while it can be connected to, and what is not a socket of a dead process is never removed.
"""

import contextlib
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Protocol

from supervisor.errors import Conflict, PermissionDenied

SUN_PATH_MAX = 103  # bytes of a UNIX socket's path: macOS allows 104 with the final NUL, Linux 108
NOBODY = 2**32 - 1  # (uid_t)-1: the kernel's word for none
ROOT = 0
UID = "uid:"  # before the number of a user, where others have an address
_UCRED = struct.Struct("iII")  # Linux, socket(7): pid, uid, gid
_XUCRED = struct.Struct("=II68x")  # macOS, <sys/ucred.h>: version 0, uid, groups
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS, <sys/un.h>


class _Socket(Protocol):
    """What a transport gives for its socket; not always a `socket.socket`."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def peer_uid(sock: _Socket | None) -> int | None:
    """Who connected, as the kernel wrote it down at that moment: nothing that is sent can change it.

    None: no UNIX socket, or the peer has left (macOS). Linux gives 65534 for users whom this user namespace does not
    know. The way of macOS is written from its headers and has never been run.
    """
    if sock is None:
        return None
    try:
        if sys.platform == "linux":
            uid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        else:
            uid = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))[1]
    except (OSError, struct.error):
        return None
    return None if uid == NOBODY else int(uid)


def unix_peer(sock: _Socket | None) -> str:
    """``uid:1000``, as a peer is written where addresses are; ``unix`` when it is not known."""
    uid = peer_uid(sock)
    return "unix" if uid is None else f"{UID}{uid}"


def owners() -> frozenset[int]:
    """Who may do with this process what they like, whatever it says: its own user and root."""
    return frozenset({ROOT, os.geteuid()})


def too_long(path: Path) -> bool:
    """For a socket, or for the name it is made under."""
    return any(len(os.fsencode(each)) > SUN_PATH_MAX for each in (path, path.with_name("." + "f" * 7)))


def bind(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """A listening socket, put in place by a rename, whatever was there. It has its mode before it listens, and nobody
    can connect before that; the process's umask, which belongs to every thread, is left alone.

    Raises:
        PermissionDenied: it cannot be made there.
    """
    fresh = path.with_name(f".{os.getpid():x}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        fresh.chmod(mode)
        sock.listen(backlog)
        os.replace(fresh, path)
    except OSError as exc:
        sock.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise PermissionDenied(f"{path}: {exc.strerror or exc}") from exc
    return sock


def check_free(path: Path) -> None:
    """Whether a socket may be put there: nothing is there, or one on which nobody listens any more.

    Raises:
        Conflict: somebody listens, or it is no socket.
        PermissionDenied: it cannot be looked at.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Conflict(
                f"{path} is in the way: it is not a socket", hint="move it, or choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # to a full backlog it would wait
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except BlockingIOError:
        pass
    except OSError as exc:
        raise PermissionDenied(f"{path}: {exc.strerror or exc}") from exc
    raise Conflict(f"another program listens on {path}", hint="stop that program, or choose another path")


def inode(path: Path) -> tuple[int, int] | None:
    """What is at that path now; a bound socket keeps its own, so nothing else gets the same while it is open."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
