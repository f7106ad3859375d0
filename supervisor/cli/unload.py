"""`llmsup unload NAME`."""

from typing import Any

import click

from supervisor.cli import awaited, completing, context, output


@click.command("unload")
@click.argument("name", shell_complete=completing.models)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for its memory to be free.",
)
def command(name: str, timeout_s: float) -> None:
    """Take a model out of memory; the next request for it loads it again.

    Requests in flight are finished first (for proxy.drain_timeout_s at most). While others wait for it, it comes
    back at once. Returns when its llama-server has ended.

    \b
    Examples:
      llmsup unload demo
      llmsup unload demo --timeout 30
    """
    from urllib.parse import quote

    client = context.client()
    client.post(f"/unload?model={quote(name, safe='')}")
    awaited.until(client, name, _gone, timeout_s=timeout_s, what="unloaded")
    output.echo(f"{name} is unloaded")


def _gone(now: dict[str, Any]) -> bool:
    return bool(now["state"] in {"STOPPED", "UNKILLABLE"} and now["second"] is None)
