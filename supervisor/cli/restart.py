"""`llmsup restart [MODEL]`."""

from typing import Any

import click

from supervisor.cli import awaited, completing, context, output
from supervisor.errors import LlmsupError


@click.command("restart")
@click.argument("model", required=False, shell_complete=completing.models)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the new one to be ready.",
)
def command(model: str | None, timeout_s: float) -> None:
    """Restart one model's llama-server (default: the default model's).

    Where there is memory for two, the new one is warmed beside the old one and takes over when it is READY;
    the old one finishes what it has. Else requests in flight are finished first, and those that come
    meanwhile wait. Returns when the new one is READY.

    \b
    Examples:
      llmsup restart
      llmsup restart demo --timeout 60
    """
    from urllib.parse import quote

    client = context.client()
    before = {m["name"]: m for m in client.get("/status")["models"]}
    query = f"?model={quote(model, safe='')}" if model else ""
    name = client.post(f"/restart{query}")["restarting"]
    generation = before[name]["generation"]

    def reached(now: dict[str, Any]) -> bool:
        if now["generation"] > generation:
            awaited.raise_if_failed(now)
        elif now["not_replaced"]:
            raise LlmsupError(f"{name}: {now['not_replaced']}", hint=f"see: llmsup why {name}")
        return bool(now["generation"] > generation and now["state"] == "READY")

    now = awaited.until(client, name, reached, timeout_s=timeout_s, what="ready")
    output.echo(f"{name} is READY (generation {now['generation']}, pid {now['pid']})")
