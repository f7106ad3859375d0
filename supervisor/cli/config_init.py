"""`llmsup config init`: a first configuration for one model, fitted to this machine."""

import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.output import echo

if TYPE_CHECKING:
    from supervisor.proc.gguf import Header
    from supervisor.proc.starter import Start

DEFAULT = Path("llmsup.yaml")
LISTEN = "127.0.0.1:8005"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

TEMPLATE = """\
# Made by `llmsup config init` for {model}
# ({header}).
# Check it with `llmsup --config {file} config check`; every other key: `llmsup --config {file} config show`.

listen: {listen}  # the port clients connect to; 0.0.0.0:8005 for every interface

models:
  {name}:
    path: {path}
    context_size: {context_size:<16} # {why_context}
    parallel: {parallel:<20} # {why_parallel}
    threads: {threads:<21} # {why_threads}
    gpu_layers: 0                  # CPU only; 999: all layers on the GPU (llmsup build --backend cuda)
    safe_profile:                  # tried once after running out of memory
      context_size: {safe_context}

memory:
  # {why_limit}
  limit_mb: {limit_mb}
  min_free_mb: {min_free_mb:<17} # memory of the machine that must stay free
"""


@click.command(name="init")
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=DEFAULT,
    show_default=True,
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Replace OUTPUT; what it was is kept beside it as OUTPUT.bak.")
def init(model: Path, output: Path, force: bool) -> None:
    """Write a first configuration for the GGUF file MODEL.

    Slots, context and the memory limit are chosen from the file's header and the memory that can be had now; the
    reasons are printed, and written beside the values.

    \b
    Examples:
      llmsup config init ~/models/mine.gguf
      llmsup config init mine.gguf -o config/llmsup.yaml --force
    """
    from supervisor.errors import Conflict
    from supervisor.proc import machine, starter
    from supervisor.settings.values import physical_cores

    if os.path.lexists(output) and not force:
        raise Conflict(f"{output} exists", hint="name another file with -o, or replace it with --force")
    header = _header(model)
    start = starter.fit(header, machine.memory())
    threads = physical_cores()
    _write(output, render(os.path.abspath(model), header, start, threads, output), force=force)
    for key, value, why in (
        ("context_size", start.context_size, start.why_context),
        ("parallel", start.parallel, start.why_parallel),
        ("threads", threads, _why_threads(threads)),
        ("limit_mb", start.limit_mb, start.why_limit),
    ):
        echo(f"{f'{key}: {value}':<22} {why}")
    echo(f"\nwritten: {output}\nnext: llmsup --config {shlex.quote(str(output))} start")


def _header(model: Path) -> "Header":
    """Raises InstanceError in the reader's own words."""
    from supervisor.errors import InstanceError
    from supervisor.proc import modelfile

    seen = modelfile.look(model)
    if seen.cause is not None:
        raise InstanceError(seen.cause.detail, hint="name a whole GGUF file")
    if seen.header is None:
        raise InstanceError(
            f"{model}: {seen.doubt}", hint="llama-server may know better: write the file by hand"
        )
    if not seen.header.tensor_count or not seen.header.architecture:
        raise InstanceError(
            f"{model} holds no weights, or names no architecture",
            hint="is it a vocabulary only? take another file",
        )
    return seen.header


def intended(path: str, start: "Start", threads: int) -> dict[str, Any]:
    """What the file is to say, and nothing else."""
    from supervisor.proc.starter import MIN_FREE_MB

    model = {
        "path": path,
        "context_size": start.context_size,
        "parallel": start.parallel,
        "threads": threads,
        "gpu_layers": 0,
        "safe_profile": {"context_size": max(1, start.context_size // 2)},
    }
    return {
        "listen": LISTEN,
        "models": {name_of(path): model},
        "memory": {"limit_mb": start.limit_mb, "min_free_mb": MIN_FREE_MB},
    }


def render(path: str, header: "Header", start: "Start", threads: int, output: Path) -> str:
    """The file's text. The model's file and its name are a stranger's: neither may add to what is intended.

    Raises:
        ConfigError: read as a configuration, the text says something else.
    """
    from supervisor.errors import ConfigError
    from supervisor.printable import one_line

    wanted = intended(path, start, threads)
    ((name, model),) = wanted["models"].items()
    text = TEMPLATE.format(
        listen=f"{LISTEN:<24}",
        model=one_line(path),
        header=one_line(str(header)),
        file=one_line(shlex.quote(str(output))),
        name=_scalar(name),
        path=_scalar(path),
        context_size=model["context_size"],
        why_context=one_line(start.why_context),
        parallel=model["parallel"],
        why_parallel=one_line(start.why_parallel),
        threads=threads,
        why_threads=_why_threads(threads),
        safe_context=model["safe_profile"]["context_size"],
        limit_mb=start.limit_mb,
        why_limit=one_line(start.why_limit),
        min_free_mb=wanted["memory"]["min_free_mb"],
    )
    if _read_back(text) != wanted:
        raise ConfigError(
            f"no configuration can be written for {one_line(path)}: it would not be read as it is meant",
            hint="rename the file, in letters, digits and . _ -",
        )
    return text


def _scalar(text: str) -> str:
    """A text in YAML, in ASCII whatever it holds."""
    from supervisor.settings.show import flow, quoted

    plain = flow(text)
    return plain if plain == text else quoted(text, ascii_only=True)


def _read_back(text: str) -> object:
    """What the daemon's own reader makes of it; None where it refuses."""
    from supervisor.settings import yamlio
    from supervisor.settings.problems import SettingsError

    try:
        document = yamlio.parse(text.encode("utf-8", "surrogateescape"), "")
    except SettingsError:
        return None
    return None if document.problems or document.notices else document.data


def _why_threads(threads: int) -> str:
    return f"as many as there are physical cores here ({threads}); more are slower"


def name_of(path: str) -> str:
    """What clients ask for: the file's name without its ending, and without what no name may hold."""
    stem = Path(path).stem
    return _NOT_IN_NAMES.sub("-", stem).strip("-._")[:128] or "model"


def _write(output: Path, text: str, *, force: bool) -> None:
    """Checked by the daemon's own reader first; then put in place at once, or not at all."""
    from supervisor.settings.load import load

    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    fresh = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        load(fresh, {})
        fresh.chmod(0o644)
        if force and os.path.lexists(output):
            os.replace(output, output.with_name(f"{output.name}.bak"))
        os.replace(fresh, output)
    finally:
        fresh.unlink(missing_ok=True)
