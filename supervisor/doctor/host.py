"""The machine: Python, room on the disk, processors, file limits, GPU."""

import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from supervisor import __version__
from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.proc import machine
from supervisor.types import GIB, MIB

DISK_FAIL_BYTES, DISK_WARN_BYTES = 64 * MIB, GIB  # logs are bounded below the first; see the log's own limits
DESCRIPTORS = 1024  # 64 of our own, 32 threads' worth to each child, and a few hundred clients
GPU_TIMEOUT_S = 5.0  # nvidia-smi waits for a driver that hangs
NVML = "pynvml"  # the module of nvidia-ml-py
GPU_EXTRA = "what each llama-server has of it is not watched: pip install 'llmsup[gpu]' (nvidia-ml-py)"


def python() -> Finding:
    return ok(
        "python",
        f"{platform.python_version()}, llmsup {__version__} on {platform.system()} {os.uname().machine}",
    )


def memory() -> Finding:
    found = machine.memory()
    if found is None:
        return warn("memory", "the system does not say how much there is")
    return ok("memory", f"{found.available // MIB} MiB of {found.total // MIB} MiB can be had now")


def disk(title: str, folder: Path) -> Finding:
    """Whether files can be made there, or in the nearest folder that exists, and how much room there is."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not there.is_dir():
        return fail(title, f"{there} is no folder", "name another one in the configuration")
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as exc:
        return fail(
            title,
            f"no file can be made in {there}: {exc.strerror}",
            f"chown it to uid {os.geteuid()}, or make room",
        )
    room = f"{folder}: {free // MIB} MiB free"
    if free < DISK_FAIL_BYTES:
        return fail(title, room, "make room: without it there are no logs and no record of deaths")
    return warn(title, room, "make room soon") if free < DISK_WARN_BYTES else ok(title, room)


def processors(threads: int) -> Finding:
    """``threads``: of all models together."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seen = f"{threads} threads of all models on {cores} cores"
    if threads > cores:
        return warn("threads", seen, "more threads than cores are slower: lower models.*.threads")
    return ok("threads", seen)


def descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        return warn(
            "file limit",
            f"{hard} open files are allowed",
            f"raise it: ulimit -Hn {DESCRIPTORS}, or LimitNOFILE=",
        )
    return ok("file limit", "unlimited" if hard == resource.RLIM_INFINITY else f"{hard} open files")


def gpu(layers: int) -> Iterator[Finding]:
    """``layers``: the most that any model wants on a GPU. Only NVIDIA's driver can be asked."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        seen = "no NVIDIA driver found (nvidia-smi)"
        yield (
            warn(
                "gpu",
                f"{seen}, and gpu_layers is {layers}",
                "fine with Vulkan or Metal; else set gpu_layers: 0",
            )
            if layers
            else ok("gpu", f"{seen}; none is wanted")
        )
        return
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        yield (fail if layers else warn)(
            "gpu", f"nvidia-smi does not answer: {exc}", "look at dmesg; reload the driver"
        )
        return
    if done.returncode:
        words = (done.stdout + done.stderr).strip()[:200]
        yield (fail if layers else warn)("gpu", f"nvidia-smi: {words}", "look at dmesg; reload the driver")
        return
    unwatched = f"; {GPU_EXTRA}" if importlib.util.find_spec(NVML) is None else ""
    for line in done.stdout.splitlines():
        yield ok("gpu", f"{line}{unwatched}" if layers else f"{line}; not used (gpu_layers: 0)")
