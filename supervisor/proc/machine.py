"""How much memory there is: of the machine, or of the cgroup that holds us when that is less.

The kernel's MemAvailable counts what can be freed at once (page cache among it); a cgroup has no such figure, so
its own page cache is added back here. Sources: kernel Documentation/filesystems/proc.rst (meminfo),
admin-guide/cgroup-v2.rst (memory.max, memory.current, memory.stat), cgroup-v1/memory.rst.
"""

from dataclasses import dataclass
from pathlib import Path

from supervisor.types import KIB

MEMINFO = Path("/proc/meminfo")
MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
# limit, used, and the page cache's two figures in memory.stat: of cgroup version 2, then 1
_V2 = ("memory.max", "memory.current", "inactive_file", "active_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes there are, and bytes a new process could have now."""

    total: int
    available: int


def memory(*, meminfo: Path = MEMINFO, membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> Memory | None:
    """None: nobody can tell. Costs 0.1 ms."""
    whole = _meminfo(meminfo) or _psutil()
    if whole is None:
        return None
    ours = [whole, *_cgroups(membership, mount)]
    return Memory(min(each.total for each in ours), max(0, min(each.available for each in ours)))


def _meminfo(path: Path) -> Memory | None:
    try:
        words = path.read_text().split()
        total, available = (int(words[words.index(f"{name}:") + 1]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, IndexError):
        return None
    return Memory(total * KIB, available * KIB)


def _psutil() -> Memory | None:
    import psutil

    try:
        found = psutil.virtual_memory()
    except (psutil.Error, OSError):
        return None
    return Memory(found.total, found.available)


def _cgroups(membership: Path, mount: Path) -> list[Memory]:
    """Every limit on the way from our cgroup to the root: the tightest may be any of them."""
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _levels(mount, path, _V2)
        elif "memory" in controllers.split(","):
            found += _levels(mount / "memory", path, _V1)
    return found


def _levels(root: Path, path: str, names: tuple[str, str, str, str]) -> list[Memory]:
    # In a container the path may be the host's, and the root of the mount ours: what is not there is passed over.
    steps = [step for step in path.split("/") if step and step != ".."]
    folders = [root.joinpath(*steps[:depth]) for depth in range(len(steps), -1, -1)]
    return [level for folder in folders if (level := _level(folder, names)) is not None]


def _level(folder: Path, names: tuple[str, str, str, str]) -> Memory | None:
    try:
        limit = int((folder / names[0]).read_text())  # "max" is none
        used = int((folder / names[1]).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(stat.get(names[2], 0)) + int(stat.get(names[3], 0))
    except (OSError, ValueError):
        return None
    return Memory(limit, limit - max(0, used - cached))
