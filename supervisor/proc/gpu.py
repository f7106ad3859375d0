"""How much of a GPU's memory each process has, where NVIDIA's library can be imported (``pip install 'llmsup[gpu]'``).

Loaded and asked in a daemon thread of its own: a driver that hangs must hold up neither the event loop nor the end of
llmsup. In a container the library may tell the host's pids, and then finds none of ours.
"""

import contextlib
import importlib
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("gpu")

EVERY_S = 5.0


class GpuMemory:
    def __init__(self, library: str = "pynvml", *, every_s: float = EVERY_S) -> None:
        self._library = library
        self._every_s = every_s
        self._end = threading.Event()
        self._seen: Mapping[int, int] = {}  # replaced whole by the thread, never altered

    def start(self) -> None:
        """Begin to look. Without library, driver or a thread to spare it is said once, and that is all."""
        try:
            threading.Thread(target=self._run, name="gpu-memory", daemon=True).start()
        except RuntimeError as exc:
            log.info("memory of GPUs is not watched", why=str(exc))

    def stop(self) -> None:
        self._end.set()

    def of(self, pid: int) -> int:
        """Bytes on all GPUs at the last look; 0: none, or not known."""
        return self._seen.get(pid, 0)

    def _run(self) -> None:
        try:
            nvml: Any = importlib.import_module(self._library)
            nvml.nvmlInit()
        except Exception as exc:  # noqa: BLE001  the library raises errors of its own
            log.info("memory of GPUs is not watched", why=repr(exc))
            return
        self._keep(nvml)
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()

    def _keep(self, nvml: Any) -> None:
        failed = False
        while True:
            try:
                self._seen, failed = read(nvml), False
            except Exception as exc:  # noqa: BLE001  a GPU that has fallen off its bus; it may come back
                if not failed:
                    log.warning("GPUs do not answer", error=repr(exc))
                self._seen, failed = {}, True
            if self._end.wait(self._every_s):
                return


def read(nvml: Any) -> dict[int, int]:
    """Bytes by pid; ``nvml``: the module.

    CUDA's processes are in one list, Vulkan's in another, and one that uses both is in both with the same figure.
    """
    found: Counter[int] = Counter()
    for number in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        lists = [nvml.nvmlDeviceGetComputeRunningProcesses(device)]
        with contextlib.suppress(nvml.NVMLError_NotSupported):  # datacentre cards without graphics
            lists.append(nvml.nvmlDeviceGetGraphicsRunningProcesses(device))
        here: dict[int, int] = {}
        for process in (one for each in lists for one in each):
            used = int(process.usedGpuMemory or 0)  # None where the driver may not tell
            here[int(process.pid)] = max(used, here.get(int(process.pid), 0))
        found.update(here)
    return dict(found)
