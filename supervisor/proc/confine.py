"""The hard limit of a child's memory: beyond what it has once it serves, the kernel gives it so much and no more.

It is set when the child is READY, from what it has then: so it never stands in the way of loading a model, however
much that takes, and with a GPU whose driver maps much too. What is counted is private and writable
(RLIMIT_DATA, ``VmData``): neither a mapped model file nor reserved addresses, as RLIMIT_AS would. A request that
asks for more makes an allocation fail: the request ends with 500, or llama-server does, as any death with a request inside.

The soft limit is `memory.limit_mb`, looked at while it runs. A cgroup would count page cache and stacks more exactly, but
needs one that is delegated, and kills where this refuses. Linux only: elsewhere there is the soft limit alone.
"""

import contextlib
import os
import re
import resource
import sys
from pathlib import Path

from supervisor.types import KIB

_DATA = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)
CORE_DUMPS = "LLMSUP_CORE_DUMPS"  # 1: the daemon may leave one where the system's limits allow it


def forbid_core_dumps() -> None:
    """Of this process: requests, answers and keys are in it. A child never leaves one (`spawn`)."""
    if os.environ.get(CORE_DUMPS) != "1":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def confine(pid: int, growth_bytes: int) -> int | None:
    """From now on the process may have ``growth_bytes`` more data than it has. Returns the limit in bytes; None: there is none."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError, ValueError):  # gone; or a lower hard limit is in force
        found = _DATA.search(Path(f"/proc/{pid}/status").read_text())
        if found is not None:
            limit = int(found[1]) * KIB + growth_bytes
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
            return limit
    return None
