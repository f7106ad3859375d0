"""`llmsup run`: the daemon in the foreground."""

import contextlib
import faulthandler
import os
import traceback
from collections.abc import Callable

import click

from supervisor.cli import context
from supervisor.errors import LlmsupError


@click.command("run")
@click.option("--ready-fd", type=int, hidden=True, help="Where `start` hears how it went.")
def command(ready_fd: int | None) -> None:
    """Run the daemon in the foreground, as systemd wants it.

    SIGTERM and Ctrl-C drain and stop; a second one hurries. SIGHUP reads the configuration again.

    \b
    Examples:
      llmsup run
      LOG_LEVEL=debug llmsup --config my.yaml run
    """
    from supervisor import app
    from supervisor.settings.load import load

    tell = _teller(ready_fd)
    try:
        loaded = load(context.config_path(), os.environ)
        with contextlib.suppress(OSError, ValueError):  # a stderr without a descriptor
            faulthandler.enable()
        app.run(
            loaded,
            ready=lambda why_not: tell(f"no {why_not}" if why_not else "ok"),
            background=ready_fd is not None,
        )
    except LlmsupError as error:
        tell(f"end {error.exit_code} {error}")
        raise
    except OSError as error:  # a full disk, most likely: the log may not have room to say so
        tell(f"end 1 {error.filename or 'the system'}: {error.strerror or error}")
        raise
    except Exception:  # a defect: `start` shows a line of it, all belongs where the daemon's words go
        traceback.print_exc()
        raise


def _teller(ready_fd: int | None) -> Callable[[str], None]:
    """Says one line to `start`: the first, and only that."""
    fds = [] if ready_fd is None else [ready_fd]

    def tell(line: str) -> None:
        while fds:
            fd = fds.pop()
            with contextlib.suppress(OSError):  # whoever started us has gone; the daemon goes on
                os.write(fd, f"{line}\n".encode())
            os.close(fd)

    return tell
