"""Compiles the C parts on demand into ``benchmarks/.build/``, and again only when a source has changed."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".build"
COMPILE_LIMIT_S = 60


class BuildError(Exception):
    """No compiler, or it refused; the text says what to do."""


def program(name: str) -> Path:
    """The executable made from ``<name>.c``.

    :raises BuildError: when it cannot be compiled.
    """
    target = FOLDER / name
    sources = [HERE / f"{name}.c", *HERE.glob("*.h")]
    newest = max(source.stat().st_mtime for source in sources)
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BuildError("no C compiler found: install gcc or clang, or set CC")
    FOLDER.mkdir(exist_ok=True)
    fresh = FOLDER / f"{name}.{os.getpid()}"  # renamed when whole: two runs may build at once
    command = [compiler, "-O2", "-o", str(fresh), str(sources[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr}")
    fresh.replace(target)
    return target
