from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.errors import BuildError
from supervisor.proc.building import recipe
from supervisor.proc.building.recipe import Inputs
from supervisor.proc.building.toolchain import Backend, Toolchain
from supervisor.types import GIB

TOOLS = Toolchain("/b/cmake", "Ninja", "/b/ninja", "/b/cc", "/b/c++", ccache=False, compiler="gcc 12")
INPUTS = Inputs("sha", "cpu", ("-DA=1",), "x86_64", "abc", "gcc 12")


def flags(backend, *, macos=False, commit="", environ=None):
    return recipe.flags(backend, macos=macos, commit=commit, environ=environ or {})


def test_every_build_is_static_release_and_needs_no_network():
    for backend in (Backend.CPU, Backend.CUDA, Backend.VULKAN):
        assert {
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",
            "-DLLAMA_OPENSSL=OFF",
        } <= set(flags(backend))


@pytest.mark.parametrize(
    ("backend", "macos", "added"),
    [
        (Backend.CPU, False, ()),
        (Backend.CPU, True, ("-DGGML_METAL=OFF",)),
        (Backend.CUDA, False, ("-DGGML_CUDA=ON",)),
        (Backend.VULKAN, False, ("-DGGML_VULKAN=ON",)),
        (Backend.VULKAN, True, ("-DGGML_VULKAN=ON", "-DGGML_METAL=OFF")),
        (Backend.METAL, True, ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON")),
    ],
)
def test_a_back_end_adds_its_flags(backend, macos, added):
    assert flags(backend, macos=macos)[len(flags(Backend.CPU)) :] == added


def test_metal_is_refused_elsewhere():
    with pytest.raises(BuildError, match="macOS only"):
        flags(Backend.METAL)


def test_the_key_changes_with_each_thing_the_bytes_depend_on():
    others = [
        replace(INPUTS, source_hash="x"),
        replace(INPUTS, backend="cuda"),
        replace(INPUTS, flags=()),
        replace(INPUTS, machine="aarch64"),
        replace(INPUTS, cpu="x"),
        replace(INPUTS, compiler="gcc 13"),
    ]
    keys = {item.key() for item in [INPUTS, *others]}
    assert len(keys) == len(others) + 1
    assert INPUTS.key() == replace(INPUTS).key()
    assert INPUTS.key().startswith("cpu-")


def test_compiler_flags_of_the_environment_are_part_of_the_build():
    with_flags = flags(Backend.CPU, environ={"CXXFLAGS": "-g", "HOME": "/h"})
    assert set(with_flags) - set(flags(Backend.CPU)) == {"CXXFLAGS=-g"}
    argv = recipe.configure_argv(Path("/s"), Path("/t"), TOOLS, with_flags)
    assert "CXXFLAGS=-g" not in argv  # cmake reads it from the environment


def test_gpu_architectures_of_the_environment_overrule_native():
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90" in flags(Backend.CUDA, environ={"CUDAARCHS": "80;90"})
    assert flags(Backend.CPU, environ={"CUDAARCHS": "90"}) == flags(Backend.CPU)


def test_the_commands():
    argv = recipe.configure_argv(Path("/s"), Path("/t"), TOOLS, ("-DA=1",))
    assert argv == [
        *("/b/cmake", "-S", "/s", "-B", "/t", "-G", "Ninja"),
        *("-DCMAKE_MAKE_PROGRAM=/b/ninja", "-DA=1", "-DGGML_CCACHE=OFF"),
    ]
    with_ccache = recipe.configure_argv(Path("/s"), Path("/t"), replace(TOOLS, ccache=True), ())
    assert with_ccache[-1] == "-DGGML_CCACHE=ON"
    argv = recipe.compile_argv(Path("/t"), TOOLS, jobs=3, targets=("a", "b"))
    assert argv == ["/b/ninja", "-C", "/t", "-j3", "a", "b"]


def test_the_environment_hides_our_repository_and_a_surrounding_make(tmp_path):
    before = {"MAKEFLAGS": "-j8", "GIT_DIR": "/x", "LLAMA_ARG_PORT": "1", "CUDAARCHS": "90", "CC": "old"}
    env = recipe.environment(before, tmp_path / "vendor" / "llama.cpp", TOOLS)
    assert env == {
        "CC": "/b/cc",
        "CXX": "/b/c++",
        "LC_ALL": "C",
        "NINJA_STATUS": "[%f/%t] ",
        "CUDAARCHS": "90",
        "GIT_CEILING_DIRECTORIES": str(tmp_path / "vendor"),
    }


@pytest.mark.parametrize(
    ("cpus", "available", "jobs"), [(8, 64 * GIB, 8), (8, 3 * GIB, 3), (8, 100, 1), (1, GIB, 1)]
)
def test_jobs_follow_processors_and_memory(cpus, available, jobs):
    assert recipe.default_jobs(cpus, available) == jobs
