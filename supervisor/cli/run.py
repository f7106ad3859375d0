"""`llmsup run`: the daemon in the foreground."""

import contextlib
import os
from collections.abc import Callable

import click

from supervisor.cli import context


@click.command("run")
@click.option("--ready-fd", type=int, hidden=True, help="Where `start` hears how it went.")
def command(ready_fd: int | None) -> None:
    """Run the daemon in the foreground, as systemd wants it.

    SIGTERM and Ctrl-C drain and stop; a second one hurries.
    """
    from supervisor import app
    from supervisor.settings.load import load

    loaded = load(context.config_path(), os.environ)
    app.run(loaded, ready=_teller(ready_fd))


def _teller(ready_fd: int | None) -> Callable[[str], None]:
    def tell(why_not: str) -> None:
        if ready_fd is not None:
            with contextlib.suppress(OSError):  # whoever started us has gone; the daemon goes on
                os.write(ready_fd, b"ok\n" if not why_not else f"no {why_not}\n".encode())
            os.close(ready_fd)

    return tell
