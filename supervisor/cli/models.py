"""`llmsup models [--json]`: what is configured, with or without a daemon."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from supervisor.cli import context, output, tables
from supervisor.cli.tables import Cell, Column, Row
from supervisor.errors import ConfigError, NotRunning
from supervisor.types import GIB, MIB

_COLUMNS = (
    Column("Name"),
    Column("Default"),
    Column("State"),
    Column("File", right=True),
    Column("Memory", right=True),
    Column("Path"),
)


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
def command(as_json: bool) -> None:
    """The configured models: their files, what memory they take, their other names, and whether they are loaded.

    Memory is what it will take, as counted before a start. Without a daemon there are no states.

    \b
    Examples:
      llmsup models
      llmsup models --json | jq -r '.[] | select(.state != "READY").name'
      llmsup load demo
    """
    from supervisor.settings.load import load

    settings = load(context.config_path(), os.environ).settings
    try:
        states = {one["name"]: one for one in context.client().get("/status")["models"]}
    except NotRunning:
        states = {}
    rows = [_row(name, settings, states.get(name)) for name in settings.models]
    if as_json:
        output.echo(json.dumps(rows, indent=2 if sys.stdout.isatty() else None))
        return
    tables.show(_COLUMNS, [_told(row) for row in rows])


def _row(name: str, settings: Any, now: dict[str, Any] | None) -> dict[str, Any]:
    from supervisor.translate import spec_of

    model = settings.models[name]
    spec = spec_of(name, model, settings)
    return {
        "name": name,
        "default": name == settings.default_model,
        "state": now["state"] if now is not None else None,
        "path": str(model.path),
        "file_bytes": _size(model.path),
        "estimated_bytes": _estimate(spec),
        "aliases": list(model.aliases),
        "preload": model.preload,
        "ttl_s": model.ttl_s,
        "standby": model.standby,
        "last_unload": now.get("last_unload") if now is not None else None,
    }


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _estimate(spec: Any) -> int | None:
    """As it is counted before a start; None: the file does not say, or there is none."""
    from supervisor.proc import modelfile
    from supervisor.proc.fitting import need

    try:
        header = modelfile.look(Path(spec.path)).header
        return need(spec, header).certain_bytes if header is not None and header.tensor_count else None
    except (OSError, ConfigError):
        return None


def _told(row: dict[str, Any]) -> Row:
    notes = [f"also called {', '.join(row['aliases'])}"] if row["aliases"] else []
    notes += [] if row["preload"] else ["loaded by its first request"]
    notes += [f"unloaded when idle for {row['ttl_s']:g} s"] if row["ttl_s"] is not None else []
    notes += ["with a standby"] if row["standby"] else []
    last = row["last_unload"]
    notes += [f"last unloaded {last['at']} ({last['reason']})"] if last is not None else []
    sizes = (_amount(row["file_bytes"]), _amount(row["estimated_bytes"]))
    default = "yes" if row["default"] else ""
    cells = (row["name"], default, row["state"] or "", *sizes, row["path"])
    return Row(cells, [Cell("; ".join(notes))] if notes else [])


def _amount(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
