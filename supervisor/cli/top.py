"""`llmsup top`: the state of everything, refreshed; on a terminal in full, in a pipe one page after the other."""

import json
import time
from urllib.parse import quote

import click

from supervisor.cli import context, output
from supervisor.cli.frame import View, all_of, frame
from supervisor.cli.screen import ENDED, Screen
from supervisor.cli.sight import Sight, Watch
from supervisor.cli.tables import drawn
from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError

ANSWER_S = 2.0  # how long the daemon has for one answer
PIPE_COLUMNS = 160
PAGE = 10
MOVES = {"j": 1, "k": -1, "page down": PAGE, "page up": -PAGE}


@click.command("top")
@click.option(
    "-d",
    "--delay",
    "every_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="From one look to the next.",
)
@click.option(
    "-n", "--count", type=click.IntRange(1), help="So many looks, then end [default: until q or Ctrl-C]."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document a look, each on a line of its own.")
def command(every_s: float, count: int | None, as_json: bool) -> None:
    """Models, memory, slots, tokens a second, requests, clients, the queue and the last events, again and again.

    Keys: q ends, p pauses, j and k or the arrows move the mark, c cancels the marked request (it asks first). When
    llmsup ends it says so, and goes on with the next one. In a pipe, or with TERM=dumb, pages follow each other.

    \b
    Examples:
      llmsup top
      llmsup top -d 5
      llmsup top -n 1 --json | jq .tokens_per_s
    """
    client = context.client(ANSWER_S)
    watch = Watch(client)
    if as_json or not drawn():
        _print(watch, every_s, count, as_json=as_json)
        return
    first = watch.look()  # who is not there at all is told so on an ordinary screen
    try:
        with Screen() as screen:
            _live(watch, client, screen, first, every_s, count)
    except KeyboardInterrupt:  # the usual way out, as of `logs -f`
        return


def _print(watch: Watch, every_s: float, count: int | None, *, as_json: bool) -> None:
    looks = 0
    try:
        while True:
            sight = watch.look()
            looks += 1
            if as_json:
                output.echo(json.dumps(sight.as_dict()))
            else:
                output.echo("\n".join(line.text.rstrip() for line in all_of(sight, PIPE_COLUMNS)) + "\n")
            if looks == count:
                return
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _live(
    watch: Watch, client: ControlClient, screen: Screen, sight: Sight, every_s: float, count: int | None
) -> None:
    view, looks, due = View(), 1, time.monotonic() + every_s
    while True:
        screen.draw(frame(sight, view, *screen.size))
        if looks == count:
            return
        key = screen.key(None if view.paused else max(0.0, due - time.monotonic()))
        if key in {"q", ENDED}:
            return
        _obey(key, view, client, screen, sight)
        if not view.paused and time.monotonic() >= due:
            sight = watch.look()
            looks += 1
            due = time.monotonic() + every_s


def _obey(key: str, view: View, client: ControlClient, screen: Screen, sight: Sight) -> None:
    if key:
        view.said = ""
    if key == "p":
        view.paused = not view.paused
    elif key in MOVES:
        view.move(MOVES[key])
    elif key == "c":
        _cancel(view, client, screen, sight)


def _cancel(view: View, client: ControlClient, screen: Screen, sight: Sight) -> None:
    request = view.request()
    if request is None:
        view.said = "mark a request first, with j and k"
        return
    view.said = f"cancel {request}? y: yes, any other key: no"
    screen.draw(frame(sight, view, *screen.size))
    while not (answer := screen.key(None)):
        screen.draw(frame(sight, view, *screen.size))  # it has another size
    if answer != "y":
        view.said = ""
        return
    try:
        client.post(f"/cancel?id={quote(request, safe='')}")
        view.said = f"{request} is cancelled"
    except LlmsupError as exc:
        view.said = str(exc)
