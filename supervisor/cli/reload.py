"""`llmsup reload`."""

from collections.abc import Iterator
from typing import Any

import click

from supervisor.cli import context, output

TIMEOUT_S = 30.0  # the file may be on a slow server
_COLOURS = {"-": "red", "+": "green"}


@click.command("reload")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
def command(dry_run: bool) -> None:
    """Read the configuration again.

    A wrong one is refused with its place and changes nothing. What changes is shown as a diff, under the words that
    say when it takes effect. llmsup does the same by itself when the file is saved (reload.watch).

    \b
    Examples:
      llmsup config check && llmsup reload
      llmsup --config my.yaml reload
    """
    answer = context.client(TIMEOUT_S).post("/reload?dry_run=1" if dry_run else "/reload")
    for line in page(answer, dry_run=dry_run):
        output.echo(line)


def page(answer: dict[str, Any], *, dry_run: bool = False) -> Iterator[str]:
    """For people: the changes by their effect."""
    changes = answer["changes"]
    for effect in dict.fromkeys(change["effect"] for change in changes):
        yield f"{effect}:"
        for change in changes:
            if change["effect"] == effect:
                yield from _diff(change)
    shown = {change["key"] for change in changes}
    if renewed := [key for key in answer["applied"] if key not in shown]:  # new files under the old names
        yield f"read again: {', '.join(renewed)}"
    if dry_run:
        yield "nothing was taken up (--dry-run)" if changes else "nothing would change"
        return
    if answer["at_next_start"]:
        yield "for what waits: llmsup stop && llmsup start"
    if not changes and not answer["applied"]:
        yield "nothing has changed"
    if answer["last"] is not None and not answer["applied"]:
        yield f"taken up before, at {answer['last']['at']}: {', '.join(answer['last']['applied'])}"


def _diff(change: dict[str, Any]) -> Iterator[str]:
    for sign, value in (("-", change["old"]), ("+", change["new"])):
        if value is not None:
            yield output.style(f"{sign} {change['key']}: {value}", fg=_COLOURS[sign])
