"""Configuring and compiling llama.cpp in a folder that survives interruptions.

Invariant: the tree says in `llmsup-tree.json` what it was configured for; one that says anything
else, or nothing, is made anew. Only the holder of the key's lock works in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import BuildError
from supervisor.proc.building import buildlog, folders, recipe, source, subcommand, toolchain
from supervisor.proc.building.progress import Progress
from supervisor.proc.building.toolchain import Toolchain

LOG = "build.log"
IDENTITY = "llmsup-tree.json"


@dataclass(frozen=True, slots=True)
class Compilation:
    source: Path
    tree: Path
    tools: Toolchain
    flags: tuple[str, ...]
    targets: tuple[str, ...]
    jobs: int
    need_bytes: int  # free space a new tree wants
    lock: int  # the descriptor of the key's lock; the compilers inherit it

    def identity(self) -> Mapping[str, object]:
        """What CMake refuses to change, or would silently keep, in a configured tree."""
        tools = self.tools
        return {"source": str(self.source), "generator": tools.generator, "cc": tools.cc, "cxx": tools.cxx}

    def commands(self) -> tuple[tuple[str, list[str]], ...]:
        configure = recipe.configure_argv(self.source, self.tree, self.tools, self.flags)
        build = recipe.compile_argv(self.tree, self.tools, jobs=self.jobs, targets=self.targets)
        return (("configuring", configure), (f"compiling with {self.jobs} jobs", build))


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BuildError
    log: str  # the end of it


def run(work: Compilation, progress: Progress, environ: Mapping[str, str]) -> None:
    """Leave the programs in `<tree>/bin`, continuing in a tree that fits.

    Raises:
        BuildError: too little space, or cmake or a compiler failed; the log's path is in the hint.
        OSError: the file system refuses.
    """
    resumed = folders.read_json(work.tree / IDENTITY) == work.identity()
    if resumed:
        progress.say("continuing the build that was interrupted")
    else:
        _new_tree(work)
    failure = _attempt(work, progress, environ)
    if failure and resumed and buildlog.broken_tree(failure.log):
        progress.say("the interrupted build is damaged: starting anew")
        _new_tree(work)
        failure = _attempt(work, progress, environ)
    if failure:
        raise failure.error


def _new_tree(work: Compilation) -> None:
    folders.discard(work.tree)
    source.require_space(work.tree.parent, work.need_bytes, "the build")
    work.tree.mkdir(parents=True)
    folders.write_atomic(work.tree / IDENTITY, json.dumps(work.identity()))


def _attempt(work: Compilation, progress: Progress, environ: Mapping[str, str]) -> _Failure | None:
    """Configure and compile once, all output into the tree's log."""

    def on_line(line: str) -> None:
        if step := buildlog.parse_step(line):
            progress.step(step.done, step.total)

    path = work.tree / LOG
    env = recipe.environment(environ, work.source, work.tools)
    # Unbuffered: whoever watches the log, or reads it after SIGKILL, sees all that was said.
    with path.open("wb", buffering=0) as log:
        for phase, argv in work.commands():
            progress.say(phase)
            if subcommand.stream(argv, env=env, log=log, on_line=on_line, held=(work.lock,)) != 0:
                text = _end_of(path)
                return _Failure(buildlog.explain(text, phase, str(path), toolchain.advice_here), text)
    return None


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - buildlog.TAIL_CHARS))
        return file.read().decode("utf-8", "replace")
