"""`llmsup config check`: is the configuration file right, and what about it is worth knowing?"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # pydantic costs tenths of a second; only `check` itself pays
    from supervisor.settings.load import Loaded
    from supervisor.settings.notices import Notice
    from supervisor.settings.problems import Problem


@click.group(name="config")
def command() -> None:
    """Validate the configuration."""


@command.command(name="check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
@click.pass_context
def check(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Validate PATH, or the file the daemon would use, with the overrides of the environment.

    Warnings go to stderr and do not change the exit code; an invalid file ends with 6.
    """
    from supervisor.errors import ConfigError
    from supervisor.settings.load import load
    from supervisor.settings.locate import find_config
    from supervisor.settings.notices import notices

    try:
        loaded = load(path or find_config(_config_option(context), os.environ, Path.cwd()), os.environ)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"ok": False, "errors": _errors(error), "warnings": []}))
        context.exit(ConfigError.exit_code)
    found = list(notices(loaded))
    if as_json:
        warnings = [{"key": notice.key, "message": notice.message} for notice in found]
        click.echo(json.dumps({"ok": True, "errors": [], "warnings": warnings}))
    else:
        _print(loaded, found)


def _print(loaded: "Loaded", found: "list[Notice]") -> None:
    settings = loaded.settings
    for notice in found:
        click.echo(f"warning: {notice}", err=True)
    count = len(settings.models)
    click.echo(
        f"OK: {click.format_filename(loaded.path)} ({count} model{'s' * (count != 1)}, default {settings.default_model})"
    )


def _config_option(context: click.Context) -> str | None:
    """The value of `llmsup --config PATH config check`; `command` run by itself has no such option."""
    option = context.find_root().params.get("config")
    return None if option is None else str(option)


def _errors(error: Exception) -> list[dict[str, str | int | None]]:
    """A list of one where the error is not about places in a file (there is none)."""
    from supervisor.settings.problems import SettingsError

    if isinstance(error, SettingsError):
        return [_error(problem) for problem in error.problems]
    return [{"file": None, "line": None, "column": None, "key": "", "message": str(error)}]


def _error(problem: "Problem") -> dict[str, str | int | None]:
    place = problem.place
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "key": problem.key,
        "message": problem.message,
    }
