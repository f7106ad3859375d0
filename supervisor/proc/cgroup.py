"""Whether the kernel's out-of-memory killer has been at work among us: the counter of our own cgroup.

A SIGKILL does not say who sent it; this counter does. It counts killed members of the cgroup, whatever limit or
shortage made the kernel kill. Where there is no such counter (macOS, the bare root cgroup) the answer is
None, and a kill stays a kill.

Sources: kernel Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control).
"""

from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class OomKills:
    """Reads one small file of a virtual file system (30 microseconds); the path is looked for once."""

    def __init__(self, *, mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> None:
        self._path = locate(mount, membership)

    def __repr__(self) -> str:
        return f"<OomKills {self._path}>"

    def __call__(self) -> int | None:
        """How many members of the cgroup have been killed for lack of memory so far; None: nobody counts."""
        return read(self._path) if self._path is not None else None


def locate(mount: Path, membership: Path) -> Path | None:
    """The file that counts for the cgroup named in ``/proc/self/cgroup``: of version 2, else of version 1.

    In a container the path may be the host's while the mount shows our own cgroup as the root, so the
    mount itself is the second choice.
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return None
    candidates: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        below = path.lstrip("/")
        if not controllers:  # version 2, alone or beside version 1
            for root in (mount, mount / "unified"):
                candidates += [root / below / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            candidates += [root / below / "memory.oom_control", root / "memory.oom_control"]
    return next((path for path in candidates if read(path) is not None), None)


def read(path: Path) -> int | None:
    """The number after ``oom_kill`` in the file; None: not there (a kernel before 4.13), or not to be read."""
    try:
        words = path.read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return None
