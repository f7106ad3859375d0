"""`llmsup why [MODEL] [-n N] [--json]`: told by the daemon, which knows the newest; without one, read from its file."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from supervisor.cli import completing, context, output, tables
from supervisor.cli.status import doors, span
from supervisor.errors import LlmsupError, NotFound, PermissionDenied
from supervisor.events import Death
from supervisor.printable import one_line
from supervisor.proc import deaths
from supervisor.proc.autopsy import BY_WISH
from supervisor.proc.deaths import Entry
from supervisor.proc.remedies import remedy
from supervisor.types import MIB

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LABEL = len("  what: ")
EVIDENCE_LINES = 3  # of its last words, when no line said more than the others


@click.command("why")
@click.argument("model", required=False, shell_complete=completing.models)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="So many deaths at most, newest first.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
def command(model: str | None, number: int, as_json: bool) -> None:
    """Why llama-server ended: the last deaths with cause, evidence, what llmsup did and what to do.

    Of MODEL, or of all. Works without a daemon too: what it wrote down is read then.

    \b
    Examples:
      llmsup why
      llmsup why demo -n 20
      llmsup why --json | jq '.last_day'
    """
    state = _state()
    told = _told_by_daemon() if state is not None else None
    entries, wrong = (told, "") if told is not None else _written()
    chosen = _of_model(entries, model, state)[::-1]
    now = datetime.now(UTC)
    if as_json:
        output.echo(
            json.dumps(_document(chosen, number, now, wrong), indent=2 if sys.stdout.isatty() else None)
        )
        return
    notes = [wrong] if wrong else []
    if state is not None and state["deaths"]["error"]:
        notes.append(f"not on the disk yet, and lost if llmsup ends now: {state['deaths']['error']}")
    for note in notes:
        output.echo(f"{output.style('note:', fg='yellow')} {note}")
    for line in _report(chosen, number, now, state, model):
        output.echo(tables.wrapped(line, hang=LABEL))


def _state() -> dict[str, Any] | None:
    """The daemon's status; None when it does not run, or cannot say."""
    try:
        state: dict[str, Any] = context.client(timeout_s=2.0).get("/status")
    except (LlmsupError, OSError):
        return None
    return state


def _told_by_daemon() -> list[Entry] | None:
    """Those in its memory: on the disk they are a moment later, and not at all while that is full. None: it cannot say."""
    try:
        document = context.client(timeout_s=2.0).get("/deaths")
        return [deaths.from_dict(one) for one in document["deaths"]]
    except (
        LlmsupError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
    ):  # an older daemon, or one that is just leaving
        return None


def _written() -> tuple[list[Entry], str]:
    """Those in the file, and what is wrong with that."""
    path = context.run_dir().path.parent / deaths.FILE_NAME
    try:
        return deaths.read(path)
    except PermissionError:
        raise PermissionDenied(
            f"{path} may not be read", hint="run the command as the user that runs llmsup"
        ) from None


def _of_model(entries: Sequence[Entry], model: str | None, state: dict[str, Any] | None) -> list[Entry]:
    """Those of the model, or all.

    Raises:
        NotFound: nobody knows it: neither the daemon nor the record nor the configuration.
    """
    if model is None:
        return list(entries)
    mine = [entry for entry in entries if entry.death.model == model]
    if not mine:
        known = {one["name"] for one in state["models"]} if state is not None else _configured()
        if known and model not in known:
            raise NotFound(
                f"there is no model named {model!r}", hint=f"configured: {', '.join(sorted(known))}"
            )
    return mine


def _configured() -> set[str]:
    """The models of the configuration; empty when it is broken, which is not what was asked."""
    import os

    from supervisor.settings.load import load

    try:
        return set(load(context.config_path(), os.environ).settings.models)
    except LlmsupError:
        return set()


# ---- for machines


def _document(chosen: Sequence[Entry], number: int, now: datetime, wrong: str) -> dict[str, Any]:
    """Newest first; ``last_hour`` and ``last_day`` count the causes of all deaths of that time."""
    return {
        "deaths": [_told(entry, now) for entry in chosen[:number]],
        "last_hour": _counts(chosen, now, HOUR),
        "last_day": _counts(chosen, now, DAY),
        "note": wrong or None,
    }


def _told(entry: Entry, now: datetime) -> dict[str, Any]:
    words = remedy(entry.death.cause, entry.death.model, inside=entry.death.inside)
    age_s = round((now - entry.death.at).total_seconds(), 1)
    return deaths.to_dict(entry) | {"age_s": age_s, "meaning": words.meaning, "todo": words.todo}


def _counts(chosen: Sequence[Entry], now: datetime, within: timedelta) -> dict[str, int]:
    return dict(Counter(entry.death.cause for entry in chosen if now - entry.death.at <= within))


# ---- for people


def _report(
    chosen: Sequence[Entry], number: int, now: datetime, state: dict[str, Any] | None, model: str | None
) -> list[str]:
    lines = [_standing(one) for one in state["models"] if model in {None, one["name"]}] if state else []
    lines += doors(state) if state else []
    if state is None:
        lines.append("llmsup is not running; this is what it wrote down.")
    if not chosen:
        return [*lines, f"No deaths are on record{f' of {model}' if model else ''}."]
    lines.append(f"Last hour: {_tally(chosen, now, HOUR)}. Last day: {_tally(chosen, now, DAY)}.")
    here, explained = deaths.boot_id(), set[str]()
    for entry in chosen[:number]:
        lines += ["", *_entry(entry, now, explained=entry.death.cause in explained)]
        if here and entry.boot_id and entry.boot_id != here:
            lines.append("  before the machine was last started")
        explained.add(entry.death.cause)
    if len(chosen) > number:
        lines += ["", f"{len(chosen) - number} older ones: llmsup why -n {len(chosen)}"]
    return lines


def _standing(one: dict[str, Any]) -> str:
    line = f"{output.style(one['name'], bold=True)} is {one['state']} now"
    if one["next_try_s"] is not None:
        line += f", next try in {one['next_try_s']:.0f} s"
    return f"{line}; {one['degraded']}" if one["degraded"] else line


def _tally(chosen: Sequence[Entry], now: datetime, within: timedelta) -> str:
    counts = Counter(_counts(chosen, now, within)).most_common()
    return ", ".join(f"{count} x {cause}" for cause, count in counts) or "none"


def _entry(entry: Entry, now: datetime, *, explained: bool) -> list[str]:
    """One death; what its cause means and what to do is said once."""
    death = entry.death
    local = death.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    cause = output.style(death.cause, fg=None if death.cause in BY_WISH else "red", bold=True)
    heading = f"{cause}  {one_line(death.model)}  {local} ({_ago(now - death.at)})"
    if death.cause in BY_WISH:
        return [f"{heading}, after {span(death.uptime_s)}"]
    words = remedy(death.cause, death.model, inside=death.inside)
    lines = [heading]
    if not explained:
        lines.append(f"  {words.meaning}")
    lines.append(f"  what: {one_line(death.detail)}")
    lines.append(f"  when: {_when(death)}")
    if death.degraded:
        lines.append(f"  with: the {one_line(death.degraded)}")
    lines += _evidence(entry)
    lines.append(f"  then: llmsup {one_line(death.then)}")
    if words.todo and not explained:
        lines.append(f"  do:   {words.todo}")
    return lines


def _when(death: Death) -> str:
    held = f", holding {death.rss_bytes / MIB:.0f} MiB" if death.rss_bytes and death.rss_bytes >= MIB else ""
    busy = f", with {death.inside} request{'s' * (death.inside > 1)} inside" if death.inside else ""
    return f"generation {death.generation}, while {death.phase}, {span(death.uptime_s)} after its start{held}{busy}"


def _evidence(entry: Entry) -> list[str]:
    """The line that decided, if it says more than the detail does; else the last words."""
    death = entry.death
    if death.evidence:
        return [] if death.evidence in death.detail else [f"  said: {one_line(death.evidence)}"]
    return [f"  said: {one_line(line)}" for line in death.lines[-EVIDENCE_LINES:] if line.strip()]


def _ago(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else "in the future: the clock was set"
