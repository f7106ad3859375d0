"""`llmsup cancel ID`."""

import click

from supervisor.cli import completing, context, output


@click.command("cancel")
@click.argument("request_id", metavar="ID", shell_complete=completing.requests)
def command(request_id: str) -> None:
    """End one request: its client is told so, and its slot is free.

    ID is what `llmsup requests` shows, and what the client got as x-request-id.

    \b
    Examples:
      llmsup cancel 5f0c7d0e31aa-2b
      llmsup requests; llmsup cancel my-own-x-request-id
    """
    from urllib.parse import quote

    ended = context.client().post(f"/cancel?id={quote(request_id, safe='')}")["cancelled"]
    output.echo(
        f"{request_id} is cancelled" if ended == 1 else f"{request_id}: {ended} requests are cancelled"
    )
