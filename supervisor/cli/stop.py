"""`llmsup stop`."""

import time

import click

from supervisor.cli import context, output
from supervisor.errors import NotRunning, TimedOut

SLACK_S = 60.0  # beyond the drain: the kill ladder takes 17 s at most, closing a second
POLL_S = 0.02
CONTROL_S = 10.0


@click.command("stop")
@click.option("--now", is_flag=True, help="Do not wait for requests in flight.")
@click.option(
    "--timeout", "timeout_s", type=float, metavar="S", help="Seconds to wait for the end [default: enough]."
)
def command(now: bool, timeout_s: float | None) -> None:
    """Drain, stop llama-server, end the daemon. Returns when nothing is left.

    Exit code 5 when it has not ended in time; it goes on ending.

    \b
    Examples:
      llmsup stop
      llmsup stop --now
      llmsup stop --timeout 30 || llmsup stop --now
    """
    run_dir = context.run_dir()
    try:
        context.client(min(timeout_s or CONTROL_S, CONTROL_S)).post("/stop?now=1" if now else "/stop")
    except NotRunning:
        if not run_dir.running():
            raise
    deadline = time.monotonic() + (timeout_s if timeout_s is not None else _enough())
    while run_dir.running():  # the lock falls when the process is gone, and it goes last
        if time.monotonic() > deadline:
            raise TimedOut(
                f"llmsup (pid {run_dir.pid()}) has not ended yet", hint="hurry it with: llmsup stop --now"
            )
        time.sleep(POLL_S)
    output.echo("llmsup has stopped")


def _enough() -> float:
    """The configured drain time and some; a broken configuration must not keep anybody from stopping."""
    import os

    from supervisor.errors import ConfigError
    from supervisor.settings.load import load

    try:
        return load(context.config_path(), os.environ).settings.proxy.drain_timeout_s + SLACK_S
    except ConfigError:
        return 30.0 + SLACK_S
