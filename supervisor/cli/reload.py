"""`llmsup reload`."""

import click

from supervisor.cli import context

TIMEOUT_S = 30.0  # the file may be on a slow server


@click.command("reload")
def command() -> None:
    """Read the configuration again.

    A wrong one is refused with its place and changes nothing. The log level changes at once; the answer names
    the keys that wait for the next start. No llama-server is restarted.
    """
    answer = context.client(TIMEOUT_S).post("/reload")
    applied, later = answer["applied"], answer["at_next_start"]
    if not applied and not later:
        click.echo("nothing has changed")
    if applied:
        click.echo(f"changed: {', '.join(applied)}")
    if later:
        click.echo(f"changed in the file, but only the next start takes it up: {', '.join(later)}")
        click.echo("for that: llmsup stop && llmsup start")
