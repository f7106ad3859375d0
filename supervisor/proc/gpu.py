"""How much of a GPU's memory each process has, where NVIDIA's library can be imported (``pip install nvidia-ml-py``).

Asked in a daemon thread of its own: a driver that hangs must hold up neither the event loop nor the end of llmsup.
In a container the library tells the host's pids, and then finds none of ours.
"""

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

    def start(self) -> bool:
        """Begin to look; False: there is no such library, or no driver below it."""
        try:
            nvml: Any = importlib.import_module(self._library)
            nvml.nvmlInit()
        except Exception as exc:  # noqa: BLE001  the library raises errors of its own
            log.info("memory of GPUs is not watched", why=repr(exc))
            return False
        threading.Thread(target=self._keep, args=(nvml,), name="gpu-memory", daemon=True).start()
        return True

    def stop(self) -> None:
        self._end.set()

    def of(self, pid: int) -> int:
        """Bytes on all GPUs at the last look; 0: none, or not known."""
        return self._seen.get(pid, 0)

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
    """Bytes by pid; ``nvml``: the module."""
    found: Counter[int] = Counter()
    for number in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
            found[int(process.pid)] += int(process.usedGpuMemory or 0)  # None where the driver may not tell
    return dict(found)
