"""`llmsup restart [MODEL]`."""

import time
from typing import Any

import click

from supervisor.cli import context
from supervisor.errors import LlmsupError, TimedOut

POLL_S = 0.05


@click.command("restart")
@click.argument("model", required=False)
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

    Requests in flight are finished first; those that come meanwhile wait. Returns when it is READY.
    """
    from urllib.parse import quote

    client = context.client()
    before = {m["name"]: m for m in client.get("/status")["models"]}
    query = f"?model={quote(model, safe='')}" if model else ""
    name = client.post(f"/restart{query}")["restarting"]
    generation = before[name]["generation"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = next(m for m in client.get("/status")["models"] if m["name"] == name)
        if now["generation"] > generation and now["state"] == "READY":
            click.echo(f"{name} is READY (generation {now['generation']}, pid {now['pid']})")
            return
        _raise_if_failed(now, generation)
        time.sleep(POLL_S)
    raise TimedOut(f"{name} was not ready within {timeout_s:g} s", hint="see: llmsup status")


def _raise_if_failed(now: dict[str, Any], generation: int) -> None:
    if now["generation"] > generation and now["state"] in {"FAILED", "CRASHLOOP"}:
        death = now["last_death"] or {"cause": "unknown", "detail": ""}
        raise LlmsupError(f"{now['name']} is {now['state']}: {death['cause']}: {death['detail']}")
