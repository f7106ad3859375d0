"""What the service may not do (systemd.exec(5), "Sandboxing"): lines of the unit, each group with its reason. Pure.

Whoever takes over llama-server through a request or a model file is to find little: no other file to write, no other
process to see, no device but GPUs, no way to more privileges. What GPU drivers need stays open, and says so here.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

Lines = tuple[tuple[str, str], ...]
Reasoned = tuple[str, Lines]

# What needs no privileges of its own to be set, so that a user's own service manager can do it too.
_FOR_ALL: tuple[Reasoned, ...] = (
    ("It needs no privileges, now or later.", (("NoNewPrivileges", "yes"),)),
    (
        "Nothing of these is ever asked for: another machine's system calls, new namespaces, set-user-id files, real time.",
        (
            ("SystemCallArchitectures", "native"),
            ("RestrictNamespaces", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("RestrictRealtime", "yes"),
            ("LockPersonality", "yes"),
        ),
    ),
    (
        "Its port and sockets; netlink is how the machine's addresses are listed.",
        (("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),),
    ),
)
_FOR_THE_MACHINE: tuple[Reasoned, ...] = (
    (
        (
            "No capability at all, and the calls that need one answer EPERM; the others are those of any service. A port "
            "below 1024 is llmsup.socket's to open."
        ),
        (
            ("CapabilityBoundingSet", ""),
            ("SystemCallFilter", "@system-service"),
            ("SystemCallFilter", "~@privileged"),
            ("SystemCallErrorNumber", "EPERM"),
        ),
    ),
    (
        (
            "The devices of GPUs (NVIDIA; Vulkan, Intel and AMD; ROCm; WSL) and no others, which is why PrivateDevices= is "
            "not set. A driver must be loaded before the service starts: nvidia_uvm in /etc/modules-load.d."
        ),
        (
            ("DevicePolicy", "closed"),
            ("DeviceAllow", "char-nvidia* rw"),
            ("DeviceAllow", "char-drm rw"),
            ("DeviceAllow", "char-kfd rw"),
            ("DeviceAllow", "/dev/dxg rw"),
        ),
    ),
    (
        "Models and this installation may lie in homes; /tmp is its own.",
        (("ProtectHome", "read-only"), ("PrivateTmp", "yes")),
    ),
    (
        (
            "The kernel is not its to change. ProtectControlGroups= is not set: its cgroup is delegated, for memory limits. "
            "MemoryDenyWriteExecute= is not: GPU drivers compile kernels at run time."
        ),
        (
            ("ProtectKernelTunables", "yes"),
            ("ProtectKernelModules", "yes"),
            ("ProtectKernelLogs", "yes"),
            ("ProtectClock", "yes"),
            ("ProtectHostname", "yes"),
        ),
    ),
    (
        (
            "Other users' processes are not seen. ProcSubset= is not set: the driver of NVIDIA and the memory there is are "
            "read in /proc."
        ),
        (("ProtectProc", "invisible"),),
    ),
    (
        "What it writes is its own, and what it shares in memory goes with it.",
        (("UMask", "0077"), ("RemoveIPC", "yes")),
    ),
)


def lines(*, system: bool, writable: Iterable[Path], quote: Callable[[str], str]) -> tuple[Reasoned, ...]:
    """``writable``: folders outside of its own that the configuration has it write to."""
    if not system:
        return _FOR_ALL
    folders = " ".join(quote(f"-{folder}") for folder in writable)
    beside = (("ReadWritePaths", folders),) if folders else ()
    written = "All else is read-only: what it writes is in the three folders above"
    files: Reasoned = (
        f"{written}{', and where the configuration says.' if folders else '.'}",
        (("ProtectSystem", "strict"), *beside),
    )
    return (*_FOR_ALL, files, *_FOR_THE_MACHINE)
