"""On a module of the library's shape (nvidia-ml-py 13.615): functions, errors and objects as it has them."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from supervisor.proc.gpu import GpuMemory, read

NOT_SUPPORTED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_IS_LOST = 3, 9, 12, 15  # NVML_ERROR_*


class NVMLError(Exception):
    """The library makes a class for each number, and picks it when the error is made."""

    def __new__(cls, value):
        kind = {NOT_SUPPORTED: NVMLError_NotSupported, LIBRARY_NOT_FOUND: NVMLError_LibraryNotFound}
        return Exception.__new__(kind.get(value, cls))

    def __init__(self, value):
        self.value = value


class NVMLError_NotSupported(NVMLError):  # noqa: N801  the library's name
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801  the library's name
    pass


class Nvml:
    """Two devices: one that computes for 7 and 8 and shows graphics of 7 and 9, and one without graphics."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self):
        self.missing = self.lost = 0
        self.looks = threading.Semaphore(0)
        self.threads, self.open = set(), 0

    def nvmlInit(self):
        self.threads.add(threading.current_thread().name)
        if self.missing:
            raise NVMLError(self.missing)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        self.threads.add(threading.current_thread().name)
        self.looks.release()
        if self.lost:
            raise NVMLError(GPU_IS_LOST)
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetComputeRunningProcesses(self, device):
        return self._objects([(7, 100), (8, None)] if device == 0 else [(7, 11)])

    def nvmlDeviceGetGraphicsRunningProcesses(self, device):
        if device == 1:
            raise NVMLError(NOT_SUPPORTED)
        return self._objects([(7, 100), (9, 5)])

    @staticmethod
    def _objects(used):
        none = 0xFFFFFFFF  # not in a partition of a GPU
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=size, gpuInstanceId=none, computeInstanceId=none)
            for pid, size in used
        ]


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pretended_nvml", library)
    return library


def soon(holds):
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.001)


def watching():
    return [each for each in threading.enumerate() if each.name == "gpu-memory"]


def test_bytes_of_a_process_on_all_devices(nvml):
    assert read(nvml) == {7: 111, 8: 0, 9: 5}


@pytest.mark.parametrize("library", ["no_such_library", "pretended_nvml"])
@pytest.mark.parametrize("missing", [DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND])
def test_without_library_or_driver_nothing_is_watched(nvml, library, missing):
    nvml.missing = missing
    gpu = GpuMemory(library)
    gpu.start()
    soon(lambda: not watching())
    assert gpu.of(7) == 0
    assert not nvml.looks.acquire(blocking=False)


def test_a_thread_looks_again_and_again_and_survives_a_lost_gpu(nvml):
    gpu = GpuMemory("pretended_nvml", every_s=0.001)
    try:
        gpu.start()
        for lost, expected in ((0, 111), (1, 0), (0, 111)):
            nvml.lost = lost
            soon(lambda wanted=expected: gpu.of(7) == wanted)
        assert gpu.of(99) == 0
        assert nvml.threads == {"gpu-memory"}, "never in the event loop's"
    finally:
        gpu.stop()
    soon(lambda: not watching())
    assert nvml.open == 0
