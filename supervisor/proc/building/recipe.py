"""How llama.cpp is configured and compiled, and what tells one build from another. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor.errors import BuildError
from supervisor.proc.building.toolchain import Backend, Host, Toolchain
from supervisor.types import GIB, MIB

SERVER = "llama-server"
FIT_PARAMS = "llama-fit-params"

# Measured (CPU, gcc 12): a build tree of 97 MiB and 26 MiB of binaries; the archive is 73 MiB, what is
# unpacked of it 168 MiB on disk. GPU back ends carry a kernel per type and architecture; estimates.
NEED_BYTES: Mapping[Backend, int] = {
    Backend.CPU: 256 * MIB,
    Backend.METAL: 256 * MIB,
    Backend.VULKAN: 1 * GIB,
    Backend.CUDA: 3 * GIB,
}
MEMORY_PER_JOB_BYTES = 1 * GIB  # the largest translation units of llama.cpp take somewhat less

_COMMON = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # it would be fetched from the network in the middle of the build
    "-DLLAMA_OPENSSL=OFF",
)
_BACKEND = {
    Backend.CPU: (),
    Backend.CUDA: ("-DGGML_CUDA=ON",),
    Backend.VULKAN: ("-DGGML_VULKAN=ON",),
    Backend.METAL: ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"),
}
# What CMake and the compilers read from the environment and build into the result.
_ENV_IN_KEY = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS", "CUDAHOSTCXX")
# A surrounding make's job server and options are not ours; git's variables could point at our repository.
_SCRUBBED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CLICOLOR_FORCE", "DESTDIR")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything the bytes of a build depend on."""

    source_hash: str
    backend: str
    flags: tuple[str, ...]
    machine: str
    cpu: str
    compiler: str  # "" when there is none here: then any compiler's build will do

    def key(self) -> str:
        """`BACKEND-HASH`, the name of the build's folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.backend}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def flags(backend: Backend, *, macos: bool, commit: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The cmake definitions and environment settings a build is made with, the same for the same build.

    `commit`: what `--version` shall name, "" to let llama.cpp ask git.

    Raises:
        BuildError: the back end does not exist on this system.
    """
    if backend is Backend.METAL and not macos:
        raise BuildError("the metal back end exists on macOS only", hint="use cpu, cuda or vulkan")
    # Metal is on by default on macOS, and nowhere else.
    off = ("-DGGML_METAL=OFF",) if macos and backend is not Backend.METAL else ()
    # CMake's own variable, which llama.cpp overrules with "native" unless it is also defined.
    archs = environ.get("CUDAARCHS") if backend is Backend.CUDA else None
    gpus = (f"-DCMAKE_CUDA_ARCHITECTURES={archs}",) if archs else ()
    known = (f"-DLLAMA_BUILD_COMMIT={commit}",) if commit else ()
    kept = tuple(f"{name}={value}" for name in _ENV_IN_KEY if (value := environ.get(name)))
    return (*_COMMON, *_BACKEND[backend], *off, *gpus, *known, *kept)


def inputs(
    source_hash: str, backend: Backend, all_flags: tuple[str, ...], host: Host, tools: Toolchain | None
) -> Inputs:
    """What the build's key is made of."""
    compiler = tools.compiler if tools else ""
    return Inputs(source_hash, backend.value, all_flags, host.machine, host.cpu, compiler)


def configure_argv(source: Path, tree: Path, tools: Toolchain, all_flags: tuple[str, ...]) -> list[str]:
    """The cmake command. ccache changes the speed and not the result, so it is no part of the key."""
    return [
        tools.cmake,
        *("-S", str(source), "-B", str(tree), "-G", tools.generator),
        f"-DCMAKE_MAKE_PROGRAM={tools.maker}",
        *(flag for flag in all_flags if flag.startswith("-D")),
        f"-DGGML_CCACHE={'ON' if tools.ccache else 'OFF'}",
    ]


def compile_argv(tree: Path, tools: Toolchain, *, jobs: int, targets: tuple[str, ...]) -> list[str]:
    """Ninja or make itself: `cmake --build` takes several targets only since 3.15."""
    return [tools.maker, "-C", str(tree), f"-j{jobs}", *targets]


def environment(environ: Mapping[str, str], source: Path, tools: Toolchain) -> dict[str, str]:
    """The environment of cmake and the compilers."""
    env = {
        name: value
        for name, value in environ.items()
        if name not in _SCRUBBED and not name.startswith(("GIT_", "LLAMA_"))
    }
    return env | {
        "CC": tools.cc,
        "CXX": tools.cxx,
        "LC_ALL": "C",  # the log is read by `buildlog`
        "NINJA_STATUS": "[%f/%t] ",
        # Unpacked inside our checkout, llama.cpp would name our commit as its own.
        "GIT_CEILING_DIRECTORIES": str(source.resolve().parent),
    }


def default_jobs(cpus: int, available_bytes: int) -> int:
    """As many compilers as there are processors and memory for, at least one."""
    return max(1, min(cpus, available_bytes // MEMORY_PER_JOB_BYTES))
