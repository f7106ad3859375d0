"""Fetching the source archive through pip, which knows the user's index, mirror, proxy and certificates.

`pip download` asks a source archive's build backend for its metadata. The archive's own backend would
have to be installed first and would then run code of the archive that nobody verified yet. So pip is
given a stand-in under the backend's name (PEP 517), which answers from what is pinned. Measured with
pip 23.2: 5 s in all for 77 MB, nothing besides the archive downloaded, nothing of it executed.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.errors import BuildError
from supervisor.proc.building import source, subcommand
from supervisor.proc.building.progress import Progress
from supervisor.proc.building.source import Sdist

_STAND_IN = """\
import os

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = {folder!r}
    os.makedirs(os.path.join(metadata_directory, name))
    for file, text in (("METADATA", {metadata!r}), ("WHEEL", "Wheel-Version: 1.0\\n")):
        with open(os.path.join(metadata_directory, name, file), "w") as out:
            out.write(text)
    return name
"""

_UNREACHABLE = re.compile(
    r"NewConnectionError|Max retries exceeded|Connection broken|Connection to .* timed out|ReadTimeout"
    r"|ConnectTimeout|ProxyError|Temporary failure in name resolution|Name or service not known|IncompleteRead"
)
_GOT = re.compile(r"^\s*Got\s+([0-9a-f]{64})\s*$", re.MULTILINE)


def with_pip(pin: Sdist, target: Path, progress: Progress, lock: int) -> None:
    """Download the archive of `pin` to `target`. `lock`: the descriptor pip keeps while it works.

    Raises:
        BuildError: pip is missing or failed; the message says which.
        OSError: the file system refuses.
    """
    progress.say(f"downloading {pin.filename} ({pin.size_bytes / 1e6:.1f} MB) with pip")
    with source.scratch(target.with_name(".fetch")) as work:
        requirement = _prepare(pin, work)
        log_path = work / "pip.log"
        lines: list[str] = []
        with log_path.open("wb") as log:
            status = subcommand.stream(
                _argv(pin, requirement, work),
                env=_environment(os.environ, work),
                log=log,
                on_line=lines.append,
                held=(lock,),
                draws_on=sys.stderr.fileno() if progress.terminal else None,
            )
        arrived = work / pin.filename
        if status != 0 or not arrived.is_file():
            raise explain("\n".join(lines), pin, target)
        os.replace(arrived, target)


def explain(output: str, pin: Sdist, target: Path) -> BuildError:
    """The error for pip's complaint."""
    by_hand = f"or put the file there yourself: {target}"
    detail = "\n".join(line for line in output.splitlines()[-5:] if line.strip())
    what = f"{pin.project} {pin.version}"
    if "No module named pip" in output:
        return BuildError("pip is missing", hint=f"{sys.executable} -m ensurepip; {by_hand}")
    if got := _GOT.search(output):
        return source.bad_hash(pin.filename, pin.sha256, got[1], "the package index serves another file")
    if "No space left on device" in output:
        return BuildError("the disk is full", hint="free some space, then run it again", detail=detail)
    if "CERTIFICATE_VERIFY_FAILED" in output:
        hint = f"check PIP_CERT or pip's configuration, {by_hand}"
        return BuildError("the package index's certificate is not trusted", hint=hint, detail=detail)
    if _UNREACHABLE.search(output):
        hint = f"check the network, the proxy and `pip config list`, {by_hand}"
        return BuildError("the Python package index cannot be reached", hint=hint, detail=detail)
    if "No matching distribution" in output:
        return BuildError(f"the package index has no source archive of {what}", hint=by_hand, detail=detail)
    return BuildError(f"pip could not download {what}", hint=by_hand, detail=detail)


def _prepare(pin: Sdist, work: Path) -> Path:
    """The stand-in backend and the requirement file; returns the latter."""
    module = work / "stand-in" / (pin.build_backend.replace(".", "/") + ".py")
    module.parent.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {pin.project}\nVersion: {pin.version}\n"
    module.write_text(_STAND_IN.format(folder=f"{pin.top}.dist-info", metadata=metadata), encoding="utf-8")
    requirement = work / "requirement.txt"
    requirement.write_text(f"{pin.project}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    return requirement


def _argv(pin: Sdist, requirement: Path, work: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", "download"),
        *("--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes"),
        *("--no-binary", pin.project, "--use-pep517", "--no-build-isolation"),
        *("-r", str(requirement), "-d", str(work)),
    ]


def _environment(environ: Mapping[str, str], work: Path) -> dict[str, str]:
    """TMPDIR: pip unpacks the archive, and /tmp may be small; here it is also swept away when we are killed."""
    stand_in = str(work / "stand-in")
    before = environ.get("PYTHONPATH")
    path = os.pathsep.join([stand_in, before]) if before else stand_in
    return dict(environ) | {"PYTHONPATH": path, "TMPDIR": str(work)}
