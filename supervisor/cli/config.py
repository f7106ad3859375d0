"""`llmsup config check`, `show` and `schema`: is it right, what is in force and why, what may be written."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.config_init import init

if TYPE_CHECKING:  # pydantic costs tenths of a second; only `check` itself pays
    from supervisor.settings.load import Loaded
    from supervisor.settings.notices import Notice
    from supervisor.settings.problems import Problem


@click.group(name="config")
def command() -> None:
    """Validate, show and begin a configuration.

    \b
    Examples:
      llmsup config init ~/models/mine.gguf
      llmsup config check
      llmsup config show proxy
    """


command.add_command(init)


@command.command(name="check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
@click.pass_context
def check(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Validate PATH, or the file the daemon would use, with the overrides of the environment.

    Warnings go to stderr and do not change the exit code; an invalid file ends with 6.

    \b
    Examples:
      llmsup config check
      llmsup config check new.yaml && mv new.yaml config/llmsup.yaml
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
        output.echo(json.dumps({"ok": False, "errors": _errors(error), "warnings": []}))
        context.exit(ConfigError.exit_code)
    found = list(notices(loaded))
    if as_json:
        warnings = [{"key": notice.key, "message": notice.message} for notice in found]
        output.echo(json.dumps({"ok": True, "errors": [], "warnings": warnings}))
    else:
        _print(loaded, found)


@command.command(name="show")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--changed", is_flag=True, help="Only what is not as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
@click.pass_context
def show(context: click.Context, keys: tuple[str, ...], changed: bool, as_json: bool) -> None:
    """Every key with its value, and the line or variable it came from. Secrets are masked.

    KEY: only these, and what is in them (proxy, models.demo.args).

    \b
    Examples:
      llmsup config show --changed
      llmsup config show models.demo limits
    """
    from supervisor.settings.load import load
    from supervisor.settings.locate import find_config
    from supervisor.settings.show import shown

    loaded = load(find_config(_config_option(context), os.environ, Path.cwd()), os.environ)
    found = {
        key: one
        for key, one in shown(loaded).items()
        if (not keys or any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in keys))
        and not (changed and one.source == "default")
    }
    for name in keys:
        if not any(key == name or key.startswith((f"{name}.", f"{name}[")) for key in found) and not changed:
            raise click.UsageError(f"No such key {name!r}. See: llmsup config show")
    if as_json:
        values = {
            key: {"value": one.value, "source": one.source, "secret": one.secret}
            for key, one in found.items()
        }
        output.echo(json.dumps({"config": str(loaded.path), "values": values}, default=str))
        return
    output.echo(f"# {loaded.path}")
    for key, one in found.items():
        source = one.source.replace(f"{loaded.path}:", "line ")
        output.echo(f"{f'{key}: {one.text}':<50}  {output.style(f'# {source}', dim=True)}")


@command.command(name="schema")
def schema() -> None:
    """The JSON Schema of the configuration, for editors (config/llmsup.schema.json is the same).

    \b
    Examples:
      llmsup config schema > llmsup.schema.json
    """
    from supervisor.settings.jsonschema import text

    output.echo(text(), nl=False)


def _print(loaded: "Loaded", found: "list[Notice]") -> None:
    settings = loaded.settings
    for notice in found:
        output.echo(f"warning: {notice}", err=True)
    count = len(settings.models)
    output.echo(f"OK: {loaded.path} ({count} model{'s' * (count != 1)}, default {settings.default_model})")


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
