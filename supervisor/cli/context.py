"""What the verbs share: the configuration asked for, and the way to the daemon. Cheap to import."""

import os
from pathlib import Path

import click

from supervisor.control.client import ControlClient
from supervisor.control.rundir import RunDir
from supervisor.settings import locate


def config_path() -> Path:
    """The configuration file of this call.

    Raises:
        ConfigError: there is none.
    """
    option: str | None = click.get_current_context().find_root().params.get("config")
    return locate.find_config(option, os.environ, Path.cwd())


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
