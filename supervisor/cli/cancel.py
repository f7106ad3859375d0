"""`llmsup cancel ID`."""

import click

from supervisor.cli import completing, context, output


@click.command("cancel")
@click.argument("request_id", metavar="ID", shell_complete=completing.requests)
@click.option("--number", type=click.IntRange(0), metavar="N", help="Which one, where several have that ID.")
def command(request_id: str, number: int | None) -> None:
    """End one request: its client is told so, and its slot is free.

    ID is what `llmsup requests` shows, and what the client got as x-request-id. Clients may choose it; where several
    requests have the same one, none is ended, and you are told their numbers.

    \b
    Examples:
      llmsup cancel 5f0c7d0e31aa-2b
      llmsup requests; llmsup cancel my-own-x-request-id
      llmsup cancel my-own-x-request-id --number 4711
    """
    from urllib.parse import quote

    which = "" if number is None else f"&number={number}"
    context.client().post(f"/cancel?id={quote(request_id, safe='')}{which}")
    output.echo(f"{request_id} is cancelled")
