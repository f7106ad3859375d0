"""Which llama-server is used, and what it can do."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor import secure_path
from supervisor.errors import BuildError
from supervisor.proc.building import folders, published, source, subcommand, toolchain
from supervisor.proc.building.recipe import SERVER
from supervisor.secure_path import Weakness

HINT = "build one with: llmsup build"
PROBE_TIMEOUT_S = 10.0

_VERSION = re.compile(r"^version:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_LIBRARY = re.compile(
    r"(?:error while loading shared libraries: |Library not loaded: \S*?/?|loading shared library )([^\s:]+)"
)
_IS_LIBRARY = re.compile(r"^lib.*\.(so|dylib)\b")
# The option column of a --help line: `-np,   --parallel N`, then two blanks and the explanation.
_COLUMN = re.compile(r"^-.*?(?=\s{2,}[^-\s]|$)")
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")


@dataclass(frozen=True, slots=True)
class Binary:
    path: Path
    version: str  # "0.5.0-dev (build 0, commit 0c1e570)"
    flags: frozenset[str]  # every spelling of every option in --help

    def supports(self, flag: str) -> bool:
        return flag in self.flags


def locate(
    setting: str, *, cache_dir: Path | None = None, which: Callable[[str], str | None] = shutil.which
) -> Path:
    """The binary for the configuration's `llama_server.binary`: `auto` or a path.

    `auto` is the vendored build that was built or asked for last (`llmsup build --backend cuda` thus
    chooses CUDA), one made for this processor first; then llama-server on $PATH. What is found like this must be
    root's or this user's; a path is used as it is named (`weakness` tells what is to be said of it).

    Raises:
        BuildError: there is none, the path is no file that can be executed, or others could have written what was found.
    """
    if setting != "auto":
        return _checked(Path(os.path.abspath(os.path.expanduser(setting))))
    here = toolchain.host()
    builds = published.newest_first(folders.builds_dir(cache_dir or folders.cache_dir()))
    ours = [item for item in builds if item.record.source_hash == source.PIN.sha256]
    ours = [item for item in ours if item.record.machine == here.machine]
    # A build for another processor of the kind may still run (a cache shared by two machines), so it
    # is the second choice and not refused; `probe` says so when it does not.
    ours.sort(key=lambda item: item.record.cpu != here.cpu)
    if ours:
        return next((item.server for item in ours if weakness(item.server) is None), None) or _strong(
            ours[0].server
        )
    if on_path := which(SERVER):
        return _strong(Path(os.path.abspath(on_path)))
    raise BuildError("there is no llama-server: none built by llmsup, none on $PATH", hint=HINT)


def weakness(path: Path) -> Weakness | None:
    """Through what others could have written the program, or a library beside it that it loads; None: nothing."""
    if (found := secure_path.weakness(path)) is not None:
        return found
    try:
        beside = sorted(entry.path for entry in os.scandir(os.path.dirname(os.path.realpath(path))))
    except OSError:
        return None
    libraries = (each for each in beside if _IS_LIBRARY.match(os.path.basename(each)))
    return next((found for each in libraries if (found := secure_path.weakness(each)) is not None), None)


def _strong(path: Path) -> Path:
    if (found := weakness(path)) is not None:
        raise BuildError(
            f"{path} is not run, as others could have written it: {found}",
            hint=f"{found.remedy}; or, to use it as it is, name it in llama_server.binary",
        )
    return path


def probe(path: Path, *, timeout_s: float = PROBE_TIMEOUT_S, cache_dir: Path | None = None) -> Binary:
    """Run `--version` and `--help`, once for each state of the file: the answer is kept in the cache.

    Raises:
        BuildError: it does not run, with the reason, or is no llama-server.
    """
    path = _checked(path)
    facts = path.stat()
    identity = {"path": str(path), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    file = (cache_dir or folders.cache_dir()) / "probes" / f"{name}.json"
    known = None if secure_path.weakness(file) else _remembered(folders.read_json(file), identity, path)
    if known:
        return known
    found = Binary(path, version(path, timeout_s=timeout_s), options(_run(path, "--help", timeout_s).stdout))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = identity | {"version": found.version, "flags": sorted(found.flags)}
        folders.write_atomic(file, json.dumps(content))
    except OSError:
        pass  # a cache that cannot be written costs 20 ms at each start, nothing more
    return found


def version(path: Path, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """What `--version` says. Raises BuildError when the file does not run or is no llama-server."""
    output = _run(path, "--version", timeout_s)
    found = _VERSION.search(output.stderr) or _VERSION.search(output.stdout)
    if not found:
        raise BuildError(f"{path} is not a llama-server: --version names no version", hint=HINT)
    return found[1]


def options(help_text: str) -> frozenset[str]:
    """Every option spelling in the text of --help; the explanations are not searched."""
    columns = (found[0] for line in help_text.splitlines() if (found := _COLUMN.match(line)))
    return frozenset(option for column in columns for option in _OPTION.findall(column))


def why_not(returncode: int, stderr: str) -> str | None:
    """Why a program that ended like this does not work; None: it ended well."""
    if library := _LIBRARY.search(stderr):
        return f"the shared library {library[1]} is missing"
    if returncode == -signal.SIGILL:
        return "it crashed with SIGILL: it was built for another processor"
    if returncode < 0:
        known = {number.value: number.name for number in signal.Signals}  # real-time signals have no name
        return f"it crashed with {known.get(-returncode, f'signal {-returncode}')}"
    if returncode > 0:
        last = next(reversed(stderr.strip().splitlines()), "")
        return f"it ended with status {returncode}" + (f": {last}" if last else "")
    return None


def _checked(path: Path) -> Path:
    if not path.exists():
        raise BuildError(f"llama-server is missing: {path} does not exist", hint=HINT)
    if not path.is_file():
        raise BuildError(f"{path} is not a file", hint="llama_server.binary names the program itself")
    if not os.access(path, os.X_OK):
        raise BuildError(f"{path} is not executable", hint=f"chmod +x {path}")
    return path


def _run(path: Path, option: str, timeout_s: float) -> subcommand.Output:
    """One run in an environment where no LLAMA_ variable can change the answer."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    try:
        output = subcommand.capture([str(path), option], env=env, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        why: str | None = f"{option} gave no answer in {timeout_s:g} s"
    except PermissionError:
        why = "it is not executable (is its file system mounted noexec?)"
    except FileNotFoundError:
        why = "its loader or interpreter is missing: it was built for another system"
    except OSError as error:
        why = f"it is not a program for this machine ({error.strerror})"
    else:
        why = why_not(output.returncode, output.stderr)
        if why is None:
            return output
    raise BuildError(f"{path} does not run: {why}", hint=HINT)


def _remembered(
    content: Mapping[str, object] | None, identity: Mapping[str, object], path: Path
) -> Binary | None:
    if content is None or any(content.get(name) != value for name, value in identity.items()):
        return None
    text, flags = content.get("version"), content.get("flags")
    if not isinstance(text, str) or not isinstance(flags, list):
        return None
    return Binary(path, text, frozenset(str(flag) for flag in flags))
