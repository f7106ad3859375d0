"""The root of the command: finds the verb, says errors in one line, ends with the contract's exit code."""

import importlib
from collections.abc import Sequence

import click

from supervisor import __version__
from supervisor.cli import streams
from supervisor.errors import BuildError, LlmsupError

# verb -> its line in `llmsup --help`. Kept here, so that help imports no verb (test: under 150 ms).
VERBS: dict[str, str] = {
    "run": "Run the daemon in the foreground.",
    "start": "Start the daemon in the background; returns when the model is ready.",
    "stop": "Drain, stop llama-server, end the daemon.",
    "restart": "Restart one model's llama-server, without losing a request.",
    "reload": "Read the configuration again; nothing is restarted.",
    "status": "What runs, in which state.",
    "requests": "What is being asked just now.",
    "cancel": "End one request.",
    "logs": "llama-server's output.",
    "why": "Why llama-server ended, and what to do.",
    "chat": "Ask one question through the proxy; the answer streams.",
    "doctor": "Look for what could keep it from working, and say what to do.",
    "diagnose": "The same as doctor.",
    "build": "Fetch, verify and build llama-server.",
    "keys": "API keys: create, list, revoke.",
    "config": "Validate the configuration.",
}
USAGE_ERROR = 2


class _Verbs(click.Group):
    """Verbs are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"supervisor.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 not running, 4 permission, 5 timeout, 6 configuration, 7 conflict.",
)
@click.option(
    "--config", metavar="PATH", help="The configuration [default: $LLMSUP_CONFIG, config/llmsup.yaml, ...]."
)
@click.version_option(__version__, prog_name="llmsup")
def root(config: str | None) -> None:
    """Keeps llama.cpp's llama-server answering.

    Builds and starts llama-server, watches and restarts it, and stands in front of it on one fixed port.

    \b
    llmsup start            begin; http://127.0.0.1:8005 answers as llama-server does
    llmsup chat "Hello"     ask something
    llmsup status           look
    llmsup stop             end
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code, never raises."""
    streams.fill()
    try:
        code = root.main(args=list(arguments), prog_name="llmsup", standalone_mode=False)
    except click.exceptions.Abort:
        return _say("interrupted", 130)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except LlmsupError as exc:
        if isinstance(exc, BuildError) and exc.detail:
            click.echo(exc.detail, err=True)
        return _say(str(exc), exc.exit_code)
    except SystemExit as exc:
        # 1 is click's answer to EPIPE: the reader (head, less) has left, which is no error. Verbs say others.
        return exc.code if isinstance(exc.code, int) and exc.code != 1 else 0
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return _say(f"{where}{exc.strerror or exc}", 4 if isinstance(exc, PermissionError) else 1)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    prefix = click.style("llmsup: error:", fg="red", bold=True)
    click.echo(f"{prefix} {message}", err=True)
    return code
