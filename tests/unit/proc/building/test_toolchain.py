import sys

import pytest

from supervisor.proc.building import toolchain
from supervisor.proc.building.toolchain import Backend, Family, Tool
from tests.support import fake_build


@pytest.mark.parametrize(
    ("text", "platform", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"', "linux", Family.APT),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "linux", Family.APT),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "linux", Family.DNF),
        ("ID=manjaro\nID_LIKE=arch", "linux", Family.PACMAN),
        ("ID=alpine", "linux", Family.APK),
        ("ID=plan9", "linux", Family.UNKNOWN),
        ("", "linux", Family.UNKNOWN),
        ("", "darwin", Family.BREW),
    ],
)
def test_the_package_manager_is_read_from_os_release(text, platform, expected):
    assert toolchain.family(text, platform) is expected


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (Family.APT, "install: apt-get install -y g++ cmake ninja-build"),
        (Family.DNF, "install: dnf install -y gcc-c++ cmake ninja-build"),
        (Family.PACMAN, "install: pacman -S --needed gcc cmake ninja"),
        (Family.APK, "install: apk add build-base linux-headers cmake ninja-build"),
        (Family.BREW, "install Apple's command line tools: xcode-select --install"),
        (Family.UNKNOWN, "install a C++ compiler, pip install cmake, pip install ninja"),
    ],
)
def test_one_command_installs_all_that_is_missing(family, expected):
    assert toolchain.advice(family, [Tool.CXX, Tool.CMAKE, Tool.MAKER, Tool.CMAKE]) == expected


def test_advice_for_users_asks_for_sudo_and_says_what_is_not_packaged():
    assert toolchain.advice(Family.APT, [Tool.CMAKE], root=False) == "install: sudo apt-get install -y cmake"
    assert "NVIDIA" in toolchain.advice(Family.APK, [Tool.NVCC])
    text = toolchain.advice(Family.APK, [Tool.CMAKE, Tool.NVCC])
    assert text.startswith("install: apk add cmake; NVIDIA")


@pytest.mark.parametrize("tool", list(Tool))
@pytest.mark.parametrize("family", list(Family))
def test_there_is_advice_for_every_tool_everywhere(family, tool):
    assert "install" in toolchain.advice(family, [tool])


def survey(folder, backend=Backend.CPU, environ=None):
    def which(name):
        path = folder / name.rpartition("/")[2]
        return str(path) if path.exists() else None

    return toolchain.survey(backend, environ=environ or {}, which=which)


def test_a_whole_tool_set_is_found_with_ninja_first(tmp_path):
    folder = fake_build.tools(tmp_path)
    fake_build.script(folder / "make", "#!/bin/sh\n")
    fake_build.script(folder / "ccache", "#!/bin/sh\n")
    tools = survey(folder).tools
    assert tools
    assert (tools.generator, tools.maker, tools.ccache) == ("Ninja", str(folder / "ninja"), True)
    assert tools.compiler == "fake cc 12.2; fake c++ 12.2"


def test_without_ninja_make_will_do(tmp_path):
    folder = fake_build.tools(tmp_path)
    (folder / "ninja").rename(folder / "make")
    tools = survey(folder).tools
    assert tools
    assert (tools.generator, tools.maker, tools.ccache) == ("Unix Makefiles", str(folder / "make"), False)


def test_an_empty_machine_lacks_everything_at_once(tmp_path):
    found = survey(tmp_path)
    assert found.tools is None
    assert [item.why for item in found.missing] == [
        "no C++ compiler found",
        "no cmake found",
        "neither ninja nor make found",
    ]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("cmake version 3.13.4", "cmake 3.13 is too old, 3.14 is needed"),
        ("segmentation fault", "cmake does not run"),
    ],
)
def test_a_useless_cmake_is_missing(tmp_path, output, why):
    folder = fake_build.tools(tmp_path)
    fake_build.script(folder / "cmake", f"#!/bin/sh\necho {output}\n")
    assert survey(folder).missing[0].why.endswith(why)


def test_gpu_back_ends_need_their_compilers(tmp_path):
    folder = fake_build.tools(tmp_path)
    assert [m.tool for m in survey(folder, Backend.CUDA).missing] == [Tool.NVCC]
    assert [m.tool for m in survey(folder, Backend.VULKAN).missing] == [Tool.GLSLC]
    fake_build.script(folder / "nvcc", "#!/bin/sh\necho NVIDIA\necho 'V13.0.88'\n")
    fake_build.script(folder / "glslc", "#!/bin/sh\n")
    cuda = survey(folder, Backend.CUDA).tools
    assert cuda
    assert cuda.compiler.endswith("; V13.0.88")
    assert survey(folder, Backend.VULKAN).tools


def test_the_compiler_of_the_environment_is_taken(tmp_path):
    folder = fake_build.tools(tmp_path)
    fake_build.script(folder / "mycc", "#!/bin/sh\necho mine $1\n")
    tools = survey(folder, environ={"CXX": f"{folder}/mycc -m64"}).tools
    assert tools
    assert tools.cxx == f"{folder}/mycc -m64"
    assert tools.compiler.endswith("mine -m64")
    assert survey(folder, environ={"CXX": "nosuch"}).missing[0].why == "no C++ compiler found"


def test_only_instruction_sets_count_of_the_processor():
    text = "processor : 0\nflags\t\t: fpu sse4_2 avx2 user_shstk hypervisor fma bmi1\n"
    assert toolchain.cpu_features(text) == ("avx2", "bmi1", "fma", "sse4_2")
    assert toolchain.cpu_features("Features\t: fp asimd sve2 dotprod\n") == ("asimd", "dotprod", "fp", "sve2")
    assert toolchain.cpu_features("") == ()


def test_this_machine_is_named_the_same_each_time():
    assert toolchain.host() == toolchain.host()
    assert len(toolchain.host().cpu) == 12


def test_tools_installed_by_pip_are_found_beside_the_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    fake_build.script(tmp_path / "cmake", "#!/bin/sh\n")
    assert toolchain.find("cmake") == str(tmp_path / "cmake")
    assert toolchain.find("ninja") is None
