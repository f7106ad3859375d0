"""What this machine has to build with, and what to install when it has not.

`survey` looks; everything else decides on texts.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from supervisor.proc.building import subcommand


class Backend(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    VULKAN = "vulkan"
    METAL = "metal"


class Tool(StrEnum):
    CXX = "c++"
    CMAKE = "cmake"
    MAKER = "ninja"
    NVCC = "nvcc"
    GLSLC = "glslc"
    VULKAN_HEADERS = "vulkan headers"
    SPIRV_HEADERS = "spirv headers"


class Family(StrEnum):
    """Who installs packages here."""

    APT = "apt"
    DNF = "dnf"
    PACMAN = "pacman"
    APK = "apk"
    BREW = "brew"
    UNKNOWN = "unknown"


# The cmake_minimum_required of llama.cpp's CMakeLists.txt and of ggml/src/ggml-{cuda,vulkan}'s.
MIN_CMAKE: Mapping[Backend, tuple[int, int]] = {
    Backend.CPU: (3, 14),
    Backend.METAL: (3, 14),
    Backend.CUDA: (3, 18),
    Backend.VULKAN: (3, 19),
}
_INSTALL = {
    Family.APT: "apt-get install -y",
    Family.DNF: "dnf install -y",
    Family.PACMAN: "pacman -S --needed",
    Family.APK: "apk add",
    Family.BREW: "brew install",
}
# Rows: apt, dnf, pacman, apk, brew. Empty: not packaged there under a known name.
_PACKAGES: Mapping[Tool, tuple[str, str, str, str, str]] = {
    Tool.CXX: ("g++", "gcc-c++", "gcc", "build-base linux-headers", ""),
    Tool.CMAKE: ("cmake", "cmake", "cmake", "cmake", "cmake"),
    Tool.MAKER: ("ninja-build", "ninja-build", "ninja", "ninja-build", "ninja"),
    Tool.NVCC: ("nvidia-cuda-toolkit", "cuda-toolkit", "cuda", "", ""),
    Tool.GLSLC: (  # with the headers, which cmake asks for next
        "glslc libvulkan-dev spirv-headers",
        "glslc vulkan-loader-devel spirv-headers-devel",
        "shaderc vulkan-headers vulkan-icd-loader spirv-headers",
        "shaderc vulkan-headers vulkan-loader-dev spirv-headers",
        "shaderc vulkan-headers vulkan-loader spirv-headers",
    ),
    Tool.VULKAN_HEADERS: (
        "libvulkan-dev",
        "vulkan-loader-devel",
        "vulkan-headers vulkan-icd-loader",
        "vulkan-headers vulkan-loader-dev",
        "vulkan-headers vulkan-loader",
    ),
    Tool.SPIRV_HEADERS: (
        "spirv-headers",
        "spirv-headers-devel",
        "spirv-headers",
        "spirv-headers",
        "spirv-headers",
    ),
}
_IN_WORDS = {Tool.CXX: "a C++ compiler", Tool.MAKER: "ninja or make", Tool.NVCC: "the CUDA toolkit"}
_BESIDES = {
    Tool.CMAKE: "pip install cmake",
    Tool.MAKER: "pip install ninja",
    Tool.NVCC: "NVIDIA's CUDA toolkit installer, then put its bin folder on PATH",
}
_FAMILIES = {
    Family.APT: {"debian", "ubuntu"},
    Family.DNF: {"fedora", "rhel", "centos", "amzn"},
    Family.PACMAN: {"arch"},
    Family.APK: {"alpine"},
}


@dataclass(frozen=True, slots=True)
class Missing:
    tool: Tool
    why: str  # "no cmake found"


@dataclass(frozen=True, slots=True)
class Toolchain:
    cmake: str
    generator: str  # as cmake -G wants it
    maker: str  # the path of ninja or make
    cc: str  # may carry arguments, as $CC may
    cxx: str
    ccache: bool
    compiler: str  # the version lines of all compilers: part of a build's key


@dataclass(frozen=True, slots=True)
class Survey:
    """`tools` is there if and only if nothing is missing."""

    tools: Toolchain | None
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """What `-march=native` depends on."""

    machine: str  # x86_64, aarch64, arm64
    cpu: str  # a short hash of the instruction sets
    macos: bool


def family(os_release: str, platform_name: str) -> Family:
    """The package manager, from the text of /etc/os-release and `sys.platform`."""
    if platform_name == "darwin":
        return Family.BREW
    words: set[str] = set()
    for line in os_release.splitlines():
        name, _, value = line.partition("=")
        if name.strip() in {"ID", "ID_LIKE"}:
            words.update(value.strip().strip("\"'").lower().split())
    return next((manager for manager, names in _FAMILIES.items() if names & words), Family.UNKNOWN)


def advice(manager: Family, tools: Iterable[Tool], *, root: bool = True) -> str:
    """One command that installs all of them, or what is known to do instead."""
    wanted = list(dict.fromkeys(tools))
    if manager is Family.BREW and Tool.CXX in wanted:
        return "install Apple's command line tools: xcode-select --install"
    if manager is Family.UNKNOWN:
        return "install " + ", ".join(_BESIDES.get(tool) or _IN_WORDS.get(tool, str(tool)) for tool in wanted)
    row = list(_INSTALL).index(manager)
    packages = dict.fromkeys(" ".join(_PACKAGES[tool][row] for tool in wanted).split())
    rest = [_BESIDES.get(tool, str(tool)) for tool in wanted if not _PACKAGES[tool][row]]
    sudo = "" if root or manager is Family.BREW else "sudo "
    command = [f"{sudo}{_INSTALL[manager]} {' '.join(packages)}"] if packages else []
    return "; ".join(["install: " + command[0], *rest] if command else ["install: " + ", ".join(rest)])


def advice_here(tools: Iterable[Tool]) -> str:
    """`advice` for this machine and user."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    return advice(family(text, sys.platform), tools, root=os.geteuid() == 0)


def version_of(text: str) -> tuple[int, int] | None:
    """The first MAJOR.MINOR in a program's version output."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The instruction sets in /proc/cpuinfo that a compiler may use, sorted.

    Only these, because a new kernel adds words to the line that no compiler looks at, and each would
    cost a build of minutes.
    """
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    names = set(line[1].split()) if line else set()
    if "neon" in names or "asimd" in names:
        return tuple(sorted(names))
    ours = re.compile(r"ssse|sse|avx|amx|fma|f16c|bmi|popcnt|adx|v?aes|v?pclmul|gfni|sha|movbe|abm|xop|lzcnt")
    return tuple(sorted(name for name in names if ours.match(name)))


def host() -> Host:
    """As much of this machine as compiled code depends on."""
    macos = sys.platform == "darwin"
    try:
        words = "\n".join(cpu_features(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")))
    except OSError:
        words = _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) if macos else platform.processor()
    return Host(platform.machine(), hashlib.sha256(words.encode()).hexdigest()[:12], macos)


Which = Callable[[str], str | None]


def find(name: str) -> str | None:
    """`which`, which also looks beside our interpreter, where `pip install cmake ninja` puts them."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def survey(
    backend: Backend,
    *,
    environ: Mapping[str, str] | None = None,
    which: Which = find,
) -> Survey:
    """Look for everything a build needs; runs each compiler once for its version."""
    env = os.environ if environ is None else environ
    missing: list[Missing] = []
    cc, cxx = _compilers(env, which)
    if not cc or not cxx:
        what = "C++" if not cxx else "C"
        missing.append(Missing(Tool.CXX, f"no {what} compiler found"))
    cmake = which("cmake")
    missing += _cmake_problem(cmake, backend)
    ninja = which("ninja") or which("ninja-build")
    maker = ninja or which("make") or which("gmake")
    if not maker:
        missing.append(Missing(Tool.MAKER, "neither ninja nor make found"))
    extra = _backend_tool(backend, env, which, missing)
    if missing or not (cc and cxx and cmake and maker):
        return Survey(None, tuple(missing))
    compilers = [_first_line([*shlex.split(program), "--version"]) for program in (cc, cxx)]
    if extra:
        compilers.append(_last_line([extra, "--version"]))
    generator = "Ninja" if ninja else "Unix Makefiles"
    ccache = which("ccache") is not None
    text = "; ".join(dict.fromkeys(compilers))
    return Survey(Toolchain(cmake, generator, maker, cc, cxx, ccache, text), ())


def _compilers(env: Mapping[str, str], which: Which) -> tuple[str | None, str | None]:
    """C and C++ compiler: the variables CMake reads, else the names it tries, in its order."""

    def pick(variable: str, names: Sequence[str]) -> str | None:
        if own := env.get(variable, "").strip():
            words = shlex.split(own)
            return own if words and which(words[0]) else None
        return next((path for name in names if (path := which(name))), None)

    return pick("CC", ("cc", "gcc", "clang")), pick("CXX", ("c++", "g++", "clang++"))


def _cmake_problem(cmake: str | None, backend: Backend) -> list[Missing]:
    if not cmake:
        return [Missing(Tool.CMAKE, "no cmake found")]
    line = _first_line([cmake, "--version"])
    version, least = version_of(line), MIN_CMAKE[backend]
    if version is None:
        return [Missing(Tool.CMAKE, f"{cmake} does not run")]
    if version < least:
        return [
            Missing(
                Tool.CMAKE, f"cmake {version[0]}.{version[1]} is too old, {least[0]}.{least[1]} is needed"
            )
        ]
    return []


def _backend_tool(
    backend: Backend, env: Mapping[str, str], which: Which, missing: list[Missing]
) -> str | None:
    """The path of nvcc for CUDA (its version matters to the key); for Vulkan the shader compiler must only be there."""
    if backend is Backend.CUDA:
        # cmake looks at the same places: $CUDACXX, PATH, /usr/local/cuda
        nvcc = env.get("CUDACXX") or which("nvcc") or which("/usr/local/cuda/bin/nvcc")
        if not nvcc:
            missing.append(Missing(Tool.NVCC, "no nvcc found"))
        return nvcc
    if backend is Backend.VULKAN and not which("glslc"):
        missing.append(Missing(Tool.GLSLC, "no glslc found (nor perhaps the Vulkan and SPIR-V headers)"))
    return None


def _first_line(argv: Sequence[str]) -> str:
    return next(iter(_output(argv)), "")


def _last_line(argv: Sequence[str]) -> str:
    return next(reversed(_output(argv)), "")


def _output(argv: Sequence[str]) -> list[str]:
    """The lines a version option prints; none when the program does not run."""
    try:
        done = subcommand.capture(argv)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
