import pytest

from supervisor.proc.building import buildlog
from supervisor.proc.building.buildlog import Step
from supervisor.proc.building.toolchain import Tool


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[12/210] Building CXX object a.o", Step(12, 210)),
        ("[0/1] Re-running CMake", Step(0, 1)),
        ("[ 45%] Building C object a.o", Step(45, 100)),
        ("[100%] Built target llama-server", Step(100, 100)),
        ("/src/a.cpp:1: warning: [1/2] no", None),
        ("array[3/4] = 5", None),
        ("", None),
    ],
)
def test_progress_is_read_from_ninja_and_make(line, step):
    assert buildlog.parse_step(line) == step


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("/tmp/cc.s: fatal error: error writing to /tmp/cc.s: No space left on device", "the disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
        ("CMake 3.19 or higher is required.  You are running version 3.16", "cmake is too old"),
        ("error: #error -- unsupported GNU version! gcc versions later than 13", "nvcc does not work"),
        ('CUDA_ARCHITECTURES is set to "native", but no GPU was detected.', "no GPU here to compile for"),
        ("    CUDA::cublas\n  but the target was not found.", "lacks cuBLAS"),
        ("CMake Error: CUDA Toolkit not found", "no CUDA toolkit"),
        ("Could NOT find Vulkan (missing: Vulkan_LIBRARY Vulkan_INCLUDE_DIR glslc)", "found no glslc"),
        ("Could NOT find Vulkan (missing: Vulkan_INCLUDE_DIR)", "Vulkan headers"),
        ('By not providing "FindSPIRV-Headers.cmake" in CMAKE_MODULE_PATH', "SPIR-V headers"),
        ("The CXX compiler is not able to compile a simple test program.", "compiler does not work"),
        ("a.c:1:10: fatal error: stdio.h: No such file or directory", "headers are missing"),
        ("ninja: error: unknown target 'llama-server'", "no such program"),
    ],
)
def test_the_reason_is_found_in_the_log(log, message):
    error = buildlog.explain(f"before\n{log}\nafter\n", "compiling", "/log", lambda _: "install it")
    assert message in str(error)
    assert "the whole log: /log" in str(error)
    assert "\n" not in str(error)
    assert log in error.detail


def test_a_missing_package_comes_with_its_advice():
    seen = []

    def advise(tools):
        seen.extend(tools)
        return "install: x"

    assert "install: x" in str(buildlog.explain("Could NOT find Vulkan (a)", "configuring", "/log", advise))
    assert Tool.VULKAN_HEADERS in seen


def test_an_unknown_failure_shows_the_last_lines_and_the_log():
    log = "\n".join(f"line {n}" for n in range(100))
    error = buildlog.explain(log, "compiling", "/log", lambda _: "")
    assert str(error) == "compiling failed (the whole log: /log)"
    assert error.detail.splitlines() == [f"line {n}" for n in range(80, 100)]


@pytest.mark.parametrize(
    ("log", "broken"),
    [
        ("/usr/bin/ld: a.o: file not recognized: file format not recognized", True),
        ("a.o: file truncated", True),
        ("CMake Error: Error: CMakeCache.txt is damaged", True),
        ("a.cpp:1: error: expected ';'", False),
    ],
)
def test_a_damaged_tree_is_told_from_a_compile_error(log, broken):
    assert buildlog.broken_tree(log) is broken
