"""`llmsup config init`: a first configuration for one model, fitted to this machine."""

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from supervisor.proc.gguf import Header
    from supervisor.proc.starter import Start

DEFAULT = Path("llmsup.yaml")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

TEMPLATE = """\
# Made by `llmsup config init` for {model}
# ({header}).
# Check it with `llmsup --config {file} config check`; every other key: `llmsup --config {file} config show`.

listen: 127.0.0.1:8005            # the port clients connect to; 0.0.0.0:8005 for every interface

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
        click.echo(f"{f'{key}: {value}':<22} {why}")
    click.echo(f"\nwritten: {click.format_filename(output)}\nnext: llmsup --config {output} start")


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


def render(path: str, header: "Header", start: "Start", threads: int, output: Path) -> str:
    """The file's text."""
    from supervisor.proc.starter import MIN_FREE_MB
    from supervisor.settings.show import flow

    return TEMPLATE.format(
        model=flow(path),
        header=header,
        file=flow(str(output)),
        name=flow(name_of(path)),
        path=flow(path),
        context_size=start.context_size,
        why_context=start.why_context,
        parallel=start.parallel,
        why_parallel=start.why_parallel,
        threads=threads,
        why_threads=_why_threads(threads),
        safe_context=max(1, start.context_size // 2),
        limit_mb=start.limit_mb,
        why_limit=start.why_limit,
        min_free_mb=MIN_FREE_MB,
    )


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
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        load(fresh, {})
        fresh.chmod(0o644)
        if force and os.path.lexists(output):
            os.replace(output, output.with_name(f"{output.name}.bak"))
        os.replace(fresh, output)
    finally:
        fresh.unlink(missing_ok=True)
