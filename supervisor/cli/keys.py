"""`llmsup keys create / list / revoke`: the list in the state folder, with or without a running daemon."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from supervisor.cli import completing, context, output, tables
from supervisor.cli.tables import Cell, Column, Row
from supervisor.errors import LlmsupError, NotFound, NotRunning
from supervisor.keys import key as keys
from supervisor.keys import store
from supervisor.keys.key import Key, Scope

TELL_TIMEOUT_S = 2.0
_COLUMNS = tuple(map(Column, ("Id", "Name", "Scopes", "Pool", "Models", "Expires", "State")))


@click.group("keys")
def command() -> None:
    """API keys: make one, see them, take one back. At once in force in a running llmsup.

    \b
    Examples:
      llmsup keys create ci --expires 90d
      llmsup keys list
      llmsup keys revoke ci
    """


def _checked_name(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return keys.check_name(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _expiry(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else datetime.now(UTC).replace(microsecond=0) + keys.span(value)
    except (ValueError, OverflowError) as exc:
        raise click.BadParameter(str(exc)) from None


@command.command("create")
@click.argument("name", metavar="NAME", callback=_checked_name)
@click.option("--pool", help="Whose limits apply: a pool of the configuration [default: user].")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=[Scope.INFERENCE.value],
    show_default=True,
    help="What it is good for; may be given twice.",
)
@click.option("--expires", callback=_expiry, help="After how long it ends: 90d, 12h [default: never].")
@click.option("--models", help="The only models it may ask: a,b [default: all].")
def create(
    name: str, pool: str | None, scopes: tuple[str, ...], expires: datetime | None, models: str | None
) -> None:
    """Make a key. It is printed once, on stdout, and kept only as a hash.

    \b
    Examples:
      llmsup keys create ci --expires 90d
      llmsup keys create ops --scope admin --scope inference
      KEY=$(llmsup keys create demo-only --models demo)
    """
    only = frozenset(part.strip() for part in models.split(",")) if models is not None else None
    if pool is not None or only is not None:
        _check_configured(pool, only)
    wanted = Key(
        id="",
        name=name,
        digest=b"",
        created=datetime.now(UTC).replace(microsecond=0),
        scopes=frozenset(Scope(scope) for scope in scopes),
        pool=pool,
        expires=expires,
        models=only,
    )
    text, made = store.create(_file(), wanted)
    output.echo(text)
    output.echo(f"key {made.name} ({made.id}): keep it now, it cannot be shown again", err=True)
    _tell_daemon()


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
def list_keys(as_json: bool) -> None:
    """The keys there are; never the keys themselves.

    \b
    Examples:
      llmsup keys list
      llmsup keys list --json | jq -r '.keys[] | select(.expired).name'
    """
    present = store.read(_file(), managing=True).keys
    now = datetime.now(UTC)
    if as_json:
        rows = [key.told() | {"expired": key.expired(now)} for key in present]
        output.echo(json.dumps({"keys": rows}, indent=2 if sys.stdout.isatty() else None))
        return
    if not present:
        output.echo("there are no keys")
        return
    tables.show(_COLUMNS, [_row(key, now) for key in present])


def _row(key: Key, now: datetime) -> Row:
    expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
    models = "all" if key.models is None else ",".join(sorted(key.models))
    state = Cell("EXPIRED", "red") if key.expired(now) else "valid"
    return Row((key.id, key.name, ",".join(sorted(key.scopes)), key.pool or "user", models, expires, state))


@command.command("revoke")
@click.argument("name", metavar="NAME", shell_complete=completing.keys)
def revoke(name: str) -> None:
    """Take back the key of that NAME or id. A running llmsup refuses it at once.

    \b
    Examples:
      llmsup keys revoke ci
    """
    gone = store.revoke(_file(), name)
    output.echo(f"key {gone.name} ({gone.id}) is revoked")
    _tell_daemon()


def _file() -> Path:
    return context.run_dir().path.parent / store.FILE_NAME


def _check_configured(pool: str | None, models: frozenset[str] | None) -> None:
    """A mistyped name would be found out by a client only."""
    from supervisor.settings.load import load  # pydantic costs tenths of a second

    settings = load(context.config_path(), os.environ).settings
    if pool is not None and pool not in settings.limits.pools:
        raise NotFound(f"there is no pool {pool!r}", hint=f"there are: {', '.join(settings.limits.pools)}")
    for name in sorted(models or ()):
        if name not in settings.models:
            raise NotFound(f"there is no model {name!r}", hint=f"there are: {', '.join(settings.models)}")


def _tell_daemon() -> None:
    """So that it is in force when the command returns. One that does not hear it looks by itself a second later."""
    try:
        told = context.client(TELL_TIMEOUT_S).post("/keys/reload")
    except NotRunning:
        return
    except LlmsupError as exc:
        output.echo(f"llmsup could not be told; it looks by itself every second: {exc}", err=True)
        return
    if told["refused"]:
        output.echo(f"llmsup accepts no key: {told['refused']}", err=True)
