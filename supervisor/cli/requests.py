"""`llmsup requests [--json]`."""

import json
import sys
from typing import Any

import click

from supervisor.cli import context
from supervisor.cli.status import span


@click.command("requests")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(as_json: bool) -> None:
    """The requests in flight, oldest first: whose, where, for how long.

    \b
    llmsup requests             look
    llmsup cancel ID            end one
    """
    rows = context.client().get("/requests")["requests"]
    if as_json:
        click.echo(json.dumps(rows, indent=2 if sys.stdout.isatty() else None))
        return
    if not rows:
        click.echo("no request is in flight")
        return
    click.echo(f"{'ID':<24} {'AGE':>9} {'PHASE':<10} {'MODEL':<16} {'CLIENT':<24} REQUEST")
    for row in rows:
        click.echo(_line(row))


def _line(row: dict[str, Any]) -> str:
    asked = f"{row['method']} {row['path']}"
    notes = []
    if row["queue_ms"]:
        notes.append(f"waited {row['queue_ms']} ms")
    if row["retries"]:
        notes.append(f"{row['retries']} retries")
    if row["continued"]:
        notes.append(f"continued {row['continued']} times")
    told = f"  ({', '.join(notes)})" if notes else ""
    return (
        f"{row['id']:<24} {span(row['age_s']):>9} {row['phase']:<10} {row['model'] or '-':<16} "
        f"{row['client']:<24} {asked}{told}"
    )
