"""`llmsup status [--json]`."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from supervisor.cli import context, output, tables
from supervisor.cli.tables import Cell, Column, Row

_COLOURS = {"READY": "green", "FAILED": "red", "CRASHLOOP": "red", "UNKILLABLE": "red", "STOPPED": None}

_ROLES = {"next": "the next one", "leaving": "the old one", "standby": "standby"}
BANS_SHOWN = 10
_REASONS = {"ttl": "idle", "evicted": "another model needed the memory", "operator": "by an operator"}


_COLUMNS = (
    Column("Model"),
    Column("State"),
    Column("Pid", right=True),
    Column("Port", right=True),
    Column("Up", right=True),
    Column("Memory", right=True),
    Column("Slots", right=True),
    Column("Restarts", right=True),
)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
def command(as_json: bool) -> None:
    """What runs, in which state. A table on a terminal, plain columns in a pipe.

    Memory is what llama-server holds now, slots are busy ones of all. Exit code 3 when no daemon runs.

    \b
    Examples:
      llmsup status
      llmsup status --json | jq '.models[].state'
      NO_COLOR=1 llmsup status
    """
    state = context.client().get("/status")
    if as_json:
        output.echo(json.dumps(state, indent=2 if sys.stdout.isatty() else None))
        return
    for line in above(state):
        output.echo(line)
    tables.show(_COLUMNS, [_row(model) for model in state["models"]])


def page(state: dict[str, Any]) -> Iterator[str]:
    """For people, plain: the whole first, each with what is wrong with it."""
    yield from above(state)
    yield from tables.plain(_COLUMNS, [_row(model) for model in state["models"]])


def above(state: dict[str, Any]) -> Iterator[str]:
    """What is said of llmsup as a whole."""
    yield _heading(state)
    if refused := state.get("config_error"):
        since = f"the configuration was edited and is wrong; the one before is in force (since {refused['since']})"
        yield output.style(since, fg="red")
        yield from (f"    {line}" for line in refused["message"].splitlines())
    if pending := state.get("config_pending"):
        yield output.style(
            f"in the configuration, but only from the next start on: {', '.join(pending)}", fg="yellow"
        )
    if state["memory"]["warning"]:
        yield output.style(f"memory above the limit: {state['memory']['warning']}", fg="red")
    if state["deaths"]["error"]:
        yield f"the last deaths are not on the disk: {state['deaths']['error']}"
    if state.get("keys", {}).get("error"):
        yield output.style(f"no API key is accepted: {state['keys']['error']}", fg="red")
    store = state.get("limits", {}).get("store")
    if store and store["state"] == "away":
        yield output.style(
            f"limits: {store['url']} is away since {store['since']} ({store['reason']}); on_store_failure: {store['on_failure']}",
            fg="yellow",
        )
    yield from (output.style(line, fg="yellow") for line in doors(state))
    if told := _log_trouble(state["logs"]["error"], state["logs"]["dropped"]):
        yield f"llmsup's own log: {told}"


def doors(state: dict[str, Any]) -> Iterator[str]:
    """Of each client that is refused for what its requests have done; an older daemon knows none."""
    bans = state.get("bans", [])
    for one in bans[:BANS_SHOWN]:
        yield f"banned: {one['client']} for {span(one['left_s'])} yet: its requests brought llama-server down again and again"
    if bans:
        yield "  (llmsup restart opens all doors)"
    if len(bans) > BANS_SHOWN:
        yield f"banned: {len(bans) - BANS_SHOWN} more (llmsup status --json)"


def _heading(state: dict[str, Any]) -> str:
    requests, memory = state["requests"], state["memory"]
    stopping = ", stopping" if state["stopping"] else ""
    beside = f" and {state['listen_unix']}" if state.get("listen_unix") else ""
    return (
        f"llmsup {state['version']}  {state['url']}{beside}  pid {state['pid']}, up {span(state['uptime_s'])}{stopping}\n"
        f"requests: {requests['in_flight']} in flight, {requests['queued']} waiting, {requests['total']} in all, "
        f"{requests['failed']} failed   memory: {_mib(memory['children_rss_bytes'])} children, "
        f"{_mib(memory['daemon_rss_bytes'])} llmsup"
    )


def _row(model: dict[str, Any]) -> Row:
    alive, slots = model["pid"] is not None, model["slots"]
    return Row(
        (
            model["name"],
            Cell(model["state"], _COLOURS.get(model["state"], "yellow")),
            str(model["pid"]) if alive else "",
            str(model["port"]) if alive else "",
            span(model["uptime_s"]) if alive else "",
            _mib(model["rss_bytes"]) if alive else "",
            f"{slots['busy']}/{slots['total']}",
            str(model["restarts"]),
        ),
        tuple(_notes(model)),
    )


def _notes(model: dict[str, Any]) -> Iterator[Cell]:
    """What is not as always, and the last end."""
    if model["next_try_s"] is not None:
        yield Cell(f"next try in {span(model['next_try_s'])}", "yellow")
    if model["circuit_breaker"] != "closed":
        yield Cell("circuit breaker open: requests wait until it answers again", "red")
    if model["suspect"]:
        yield Cell(f"suspected to hang: {model['suspect']}", "red")
    if model["degraded"]:
        yield Cell(f"degraded: {model['degraded']}", "yellow")
    if second := model.get("second"):
        yield Cell(_second(second))
    if model.get("not_replaced"):
        yield Cell(model["not_replaced"], "red")
    if model["state"] == "STOPPED" and (last := model.get("last_unload")):
        yield Cell(f"unloaded {last['at']} ({_REASONS[last['reason']]}); the next request loads it again")
    written = model["log"]
    if written is not None and (told := _log_trouble(written["error"], written["dropped_lines"])):
        yield Cell(f"log: {told}")
    death = model["last_death"]
    if death is not None:
        yield Cell(
            f"last end: {death['at']} {death['cause']}: {death['detail']} (after {span(death['uptime_s'])})"
        )


def _second(second: dict[str, Any]) -> str:
    """``standby: READY (generation 2, pid 4711)``"""
    process = (
        f" (generation {second['generation']}, pid {second['pid']})" if second["pid"] is not None else ""
    )
    why = f": {second['why']}" if second["why"] else ""
    return f"{_ROLES[second['role']]}: {second['state']}{process}{why}"


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
