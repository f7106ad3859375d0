"""What a build's output says: how far it is, and why it failed. Pure."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.errors import BuildError
from supervisor.proc.building.toolchain import Tool

TAIL_LINES = 20
TAIL_CHARS = 64 * 1024  # of the log, searched for the reason

_NINJA = re.compile(r"^\[(\d+)/(\d+)\] ")
_MAKE = re.compile(r"^\[\s*(\d+)%\] ")

# A tree that was cut short by a power failure or SIGKILL can hold half an object under its whole name.
_BROKEN_TREE = re.compile(
    r"file truncated|file (?:format )?not recognized|malformed (?:object|archive)|premature end of file"
    r"|ninja: error: (?:loading|failed|rebuilding|.*deps log)|CMakeCache\.txt|unknown file type in"
)


@dataclass(frozen=True, slots=True)
class Step:
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Reason:
    message: str
    hint: str = ""
    tools: tuple[Tool, ...] = ()  # what to install, if that is it


# The first that matches wins: causes before their consequences.
_REASONS: tuple[tuple[str, Reason], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        Reason("the disk is full", "free some space, then run it again: it continues where it stopped"),
    ),
    (
        r"Killed signal terminated|internal compiler error: Killed|virtual memory exhausted|cannot allocate memory",
        Reason("the compiler ran out of memory", "run it again with --jobs 1: it continues where it stopped"),
    ),
    (
        r"CMake ([\d.]+) or higher is required",
        Reason("cmake is too old for this source", tools=(Tool.CMAKE,)),
    ),
    (
        r"unsupported GNU version|unsupported clang version|unsupported Microsoft",
        Reason(
            "nvcc does not work with this C++ compiler",
            "install one it supports and set CUDAHOSTCXX to it, for example CUDAHOSTCXX=g++-12",
        ),
    ),
    (
        r'CUDA_ARCHITECTURES is set to "native", but no GPU',
        Reason(
            "there is no GPU here to compile for",
            "name its architecture, for example CUDAARCHS=90 llmsup build --backend cuda",
        ),
    ),
    (r"CUDA::cublas", Reason("the CUDA toolkit lacks cuBLAS", tools=(Tool.NVCC,))),
    (
        r"CUDA Toolkit not found|Failed to find nvcc|No CMAKE_CUDA_COMPILER could be found",
        Reason("cmake found no CUDA toolkit", tools=(Tool.NVCC,)),
    ),
    (
        r"Could NOT find Vulkan \(missing:[^)]*glslc",
        Reason("cmake found no glslc", tools=(Tool.GLSLC, Tool.VULKAN_HEADERS, Tool.SPIRV_HEADERS)),
    ),
    (
        r"Could NOT find Vulkan",
        Reason("the Vulkan headers are missing", tools=(Tool.VULKAN_HEADERS, Tool.SPIRV_HEADERS)),
    ),
    (
        r"""(?:FindSPIRV-Headers\.cmake|provided by\s+"SPIRV-Headers)""",
        Reason("the SPIR-V headers are missing", tools=(Tool.SPIRV_HEADERS,)),
    ),
    (
        r"is not able to compile a simple test program|CMAKE_CXX_COMPILER not set|No CMAKE_CXX_COMPILER",
        Reason("the C++ compiler does not work", tools=(Tool.CXX,)),
    ),
    (
        r"fatal error: (?:stdio|stdlib|unistd|linux/\S+|cstdint|vector)(?:\.h)?: No such file",
        Reason("the system's C or C++ headers are missing", tools=(Tool.CXX,)),
    ),
    (r"unknown target|No rule to make target 'llama-", Reason("this source has no such program to build")),
)


def parse_step(line: str) -> Step | None:
    """Ninja's `[n/m]` or make's `[ nn%]` at the start of a line."""
    if found := _NINJA.match(line):
        return Step(int(found[1]), max(1, int(found[2])))
    if found := _MAKE.match(line):
        return Step(int(found[1]), 100)
    return None


def broken_tree(log: str) -> bool:
    """Whether the build folder itself is damaged, so that starting anew helps."""
    return _BROKEN_TREE.search(log) is not None


def explain(log: str, phase: str, log_path: str, advise: Callable[[Iterable[Tool]], str]) -> BuildError:
    """The error for a failed `phase` ("cmake", "the compilation"), with the end of the log as detail."""
    detail = "\n".join(log.rstrip().splitlines()[-TAIL_LINES:])
    for pattern, reason in _REASONS:
        if re.search(pattern, log, re.MULTILINE | re.IGNORECASE):
            hint = advise(reason.tools) if reason.tools else reason.hint
            hint = f"{hint}; the whole log: {log_path}" if hint else f"the whole log: {log_path}"
            return BuildError(f"{phase} failed: {reason.message}", hint=hint, detail=detail)
    return BuildError(f"{phase} failed", hint=f"the whole log: {log_path}", detail=detail)
