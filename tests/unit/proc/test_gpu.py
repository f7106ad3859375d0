import sys
import threading
import time
from types import SimpleNamespace

import pytest

from supervisor.proc.gpu import GpuMemory, read


class Nvml:
    """Two devices; ``broken`` makes the next look fail."""

    def __init__(self):
        self.broken = self.driverless = False
        self.looks = threading.Semaphore(0)

    def nvmlInit(self):
        if self.driverless:
            raise RuntimeError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self):
        self.looks.release()
        if self.broken:
            raise RuntimeError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetComputeRunningProcesses(self, device):
        used = [(7, 100), (8, None)] if device == 0 else [(7, 11)]
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in used]


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pretended_nvml", library)
    return library


def test_bytes_of_a_process_on_all_devices(nvml):
    assert read(nvml) == {7: 111, 8: 0}


def test_without_library_or_driver_nothing_is_watched(nvml):
    assert not GpuMemory("no_such_library").start()
    nvml.driverless = True
    assert not GpuMemory("pretended_nvml").start()


def test_a_thread_looks_again_and_again_and_survives_a_lost_gpu(nvml):
    gpu = GpuMemory("pretended_nvml", every_s=0.001)
    try:
        assert gpu.start()
        for broken, expected in ((False, 111), (True, 0), (False, 111)):
            nvml.broken = broken
            for _ in range(3):
                nvml.looks.acquire(timeout=5)
            deadline = time.monotonic() + 5
            while gpu.of(7) != expected and time.monotonic() < deadline:
                nvml.looks.acquire(timeout=1)
            assert gpu.of(7) == expected
        assert gpu.of(99) == 0
    finally:
        gpu.stop()
