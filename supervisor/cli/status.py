"""`llmsup status [--json]`."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from supervisor.cli import context

_COLOURS = {"READY": "green", "FAILED": "red", "CRASHLOOP": "red", "UNKILLABLE": "red", "STOPPED": None}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(as_json: bool) -> None:
    """What runs, in which state. Exit code 3 when no daemon does."""
    state = context.client().get("/status")
    if as_json:
        click.echo(json.dumps(state, indent=2 if sys.stdout.isatty() else None))
        return
    for line in page(state):
        click.echo(line)


def page(state: dict[str, Any]) -> Iterator[str]:
    """For people: the whole first, each with what is wrong with it."""
    yield _heading(state)
    if state["memory"]["warning"]:
        yield click.style(f"memory above the limit: {state['memory']['warning']}", fg="red")
    if state["deaths"]["error"]:
        yield f"the last deaths are not on the disk: {state['deaths']['error']}"
    if state.get("keys", {}).get("error"):
        yield click.style(f"no API key is accepted: {state['keys']['error']}", fg="red")
    if told := _log_trouble(state["logs"]["error"], state["logs"]["dropped"]):
        yield f"llmsup's own log: {told}"
    yield from map(_model, state["models"])


def _heading(state: dict[str, Any]) -> str:
    requests, memory = state["requests"], state["memory"]
    stopping = ", stopping" if state["stopping"] else ""
    return (
        f"llmsup {state['version']}  {state['url']}  pid {state['pid']}, up {span(state['uptime_s'])}{stopping}\n"
        f"requests: {requests['in_flight']} in flight, {requests['queued']} waiting, {requests['total']} in all, "
        f"{requests['failed']} failed   memory: {_mib(memory['children_rss_bytes'])} children, "
        f"{_mib(memory['daemon_rss_bytes'])} llmsup"
    )


def _model(model: dict[str, Any]) -> str:
    state = click.style(f"{model['state']:<10}", fg=_COLOURS.get(model["state"], "yellow"))
    line = f"  {model['name']:<16} {state}"
    if model["pid"] is not None:
        slots = model["slots"]
        line += (
            f" pid {model['pid']} port {model['port']} up {span(model['uptime_s'])}"
            f" {_mib(model['rss_bytes'])} slots {slots['busy']}/{slots['total']} restarts {model['restarts']}"
        )
    if model["next_try_s"] is not None:
        line += f" next try in {span(model['next_try_s'])}"
    if model["circuit_breaker"] != "closed":
        line += click.style("\n    circuit breaker open: requests wait until it answers again", fg="red")
    if model["suspect"]:
        line += click.style(f"\n    suspected to hang: {model['suspect']}", fg="red")
    if model["degraded"]:
        line += click.style(f"\n    degraded: {model['degraded']}", fg="yellow")
    written = model["log"]
    if written is not None and (told := _log_trouble(written["error"], written["dropped_lines"])):
        line += f"\n    log: {told}"
    death = model["last_death"]
    if death is not None:
        line += f"\n    last end: {death['at']}  {death['cause']}: {death['detail']} (after {span(death['uptime_s'])})"
    return line


def _log_trouble(error: str | None, dropped: int) -> str:
    """In words; "" when all is written."""
    lost = f"{dropped} lines dropped" if dropped else ""
    return ", ".join(part for part in (error, lost) if part)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def span(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 5 h 3 min, 2 d 4 h"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, name, below, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {lesser}"
    return f"{whole} s"
