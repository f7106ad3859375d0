"""`llmsup requests [--json]`."""

import json
import sys
from collections import Counter
from typing import Any

import click

from supervisor.cli import context, output, tables
from supervisor.cli.status import span
from supervisor.cli.tables import Column, Row

_COLUMNS = (
    Column("Id"),
    Column("Age", right=True),
    Column("Phase"),
    Column("Model"),
    Column("Client"),
    Column("Request"),
    Column("Notes"),
)


@click.command("requests")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
def command(as_json: bool) -> None:
    """The requests in flight, oldest first: whose, where, for how long.

    Phases: waiting (for a slot or a llama-server), asked (inside it, nothing has come yet), answering.

    \b
    Examples:
      llmsup requests
      llmsup requests --json | jq -r '.[].id'
      llmsup cancel ID
    """
    rows = context.client().get("/requests")["requests"]
    if as_json:
        output.echo(json.dumps(rows, indent=2 if sys.stdout.isatty() else None))
        return
    if not rows:
        output.echo("no request is in flight")
        return
    ids = Counter(row["id"] for row in rows)
    tables.show(_COLUMNS, [_row(row, alike=ids[row["id"]] > 1) for row in rows])


def _row(row: dict[str, Any], *, alike: bool) -> Row:
    """``alike``: others have the same id."""
    notes = [f"number {row['number']}"] if alike else []
    if row["queue_ms"]:
        notes.append(f"waited {row['queue_ms']} ms")
    if row["retries"]:
        notes.append(f"{row['retries']} retries")
    if row["continued"]:
        notes.append(f"continued {row['continued']} times")
    return Row(
        (
            row["id"],
            span(row["age_s"]),
            row["phase"],
            row["model"] or "",
            row["client"],
            f"{row['method']} {row['path']}",
            ", ".join(notes),
        )
    )
