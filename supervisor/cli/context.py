"""What the verbs share: the configuration asked for, and the way to the daemon. Cheap to import."""

import os
from pathlib import Path

import click

from supervisor import secure_path
from supervisor.cli import output
from supervisor.control.client import ControlClient
from supervisor.control.rundir import RunDir
from supervisor.settings import locate

WARNED = "llmsup.warned"


def config_path() -> Path:
    """The configuration file of this call.

    Raises:
        ConfigError: there is none.
    """
    root = click.get_current_context().find_root()
    path = locate.find_config(root.params.get("config"), os.environ, Path.cwd())
    if not root.meta.get(WARNED):  # once a call, however often it is asked for
        root.meta[WARNED] = True
        _warn_of_weakness(path)
    return path


def say_no_warning() -> None:
    """For whoever tells what is wrong with the configuration's permissions itself, or may say nothing."""
    click.get_current_context().find_root().meta[WARNED] = True


def is_config_named() -> bool:
    """Whether the configuration was asked for by name, not just found."""
    option = click.get_current_context().find_root().params.get("config")
    return locate.is_named(option, os.environ)


def _warn_of_weakness(path: Path) -> None:
    weak = secure_path.weakness(path)
    if weak is not None:
        warning = output.style("warning:", fg="yellow", bold=True)
        output.echo(f"{warning} others could have written {path}: {weak} ({weak.remedy})", err=True)


def run_dir() -> RunDir:
    """Where the daemon of this configuration lives."""
    return RunDir(locate.runtime_dir(config_path(), os.environ))


def client(timeout_s: float = 10.0) -> ControlClient:
    return ControlClient(run_dir(), timeout_s)


def tls_cert() -> Path | None:
    """The certificate of the port; None: it speaks plain HTTP."""
    return locate.essentials(config_path(), os.environ).tls_cert


def listen() -> tuple[str, int]:
    """Host and port the proxy of this configuration answers on, as a client would name them."""
    from supervisor.settings.paths import split_listen

    host, port = split_listen(locate.essentials(config_path(), os.environ).listen)
    if not port:  # a free one was chosen; only the daemon knows which
        host, port = split_listen(client().get("/status")["listen"])
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where to connect, not to listen
    return wildcard.get(host, host), port
