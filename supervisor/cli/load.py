"""`llmsup load NAME`."""

from typing import Any

import click

from supervisor.cli import awaited, completing, context, output


@click.command("load")
@click.argument("name", shell_complete=completing.models)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for it to be ready.",
)
def command(name: str, timeout_s: float) -> None:
    """Load a model into memory, as its first request would.

    Models that nobody uses just now may have to leave for it, those first that have been idle for longest.
    Returns when it is READY, or says why it is not.

    \b
    Examples:
      llmsup load demo
      llmsup load demo --timeout 60 && llmsup chat --model demo "Hello"
    """
    from urllib.parse import quote

    client = context.client()
    client.post(f"/load?model={quote(name, safe='')}")
    now = awaited.until(client, name, _ready, timeout_s=timeout_s, what="ready")
    output.echo(f"{name} is READY (pid {now['pid']})")


def _ready(now: dict[str, Any]) -> bool:
    awaited.raise_if_failed(now)
    return bool(now["state"] == "READY")
