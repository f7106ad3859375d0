"""The root of the command: finds the verb, says errors in one line, ends with the contract's exit code."""

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from supervisor import __version__
from supervisor.cli import output, streams
from supervisor.errors import BuildError, LlmsupError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# verb -> its line in `llmsup --help`. Kept here, so that help imports no verb (test: under 150 ms).
VERBS: dict[str, str] = {
    "run": "Run the daemon in the foreground.",
    "start": "Start the daemon in the background; returns when the model is ready.",
    "stop": "Drain, stop llama-server, end the daemon.",
    "restart": "Restart one model's llama-server, without losing a request.",
    "reload": "Read the configuration again, and say what changes.",
    "models": "The configured models, their files and whether they are loaded.",
    "load": "Load a model into memory before anybody asks for it.",
    "unload": "Take a model out of memory; the next request loads it again.",
    "status": "What runs, in which state.",
    "top": "The same, with requests, clients and events, refreshed every second.",
    "requests": "What is being asked just now.",
    "cancel": "End one request.",
    "logs": "llama-server's output.",
    "why": "Why llama-server ended, and what to do.",
    "chat": "Ask one question through the proxy; the answer streams.",
    "doctor": "Look for what could keep it from working, and say what to do.",
    "diagnose": "The same as doctor.",
    "build": "Fetch, verify and build llama-server.",
    "keys": "API keys: create, list, revoke.",
    "config": "Begin, validate and show a configuration.",
    "install": "Make a service of it, and explain its unit.",
    "completion": "Let a shell complete verbs, options and names.",
}
# How help groups them; what is in no group comes last.
GROUPS: dict[str, tuple[str, ...]] = {
    "Run": ("start", "stop", "run", "chat"),
    "Look": ("status", "top", "models", "requests", "logs", "why", "doctor", "diagnose"),
    "Change": ("restart", "reload", "load", "unload", "cancel", "keys"),
    "Set up": ("build", "config", "install", "completion"),
}
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TRACEBACK = "LLMSUP_TRACEBACK"  # set to 1, a defect shows where it happened in full


class _Verbs(click.Group):
    """Verbs are imported when they are called, not when they are listed or completed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"supervisor.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would write an empty line first, in a pipe too
            raise click.exceptions.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in grouped().items():
            with formatter.section(title):
                formatter.write_dl([(verb, VERBS[verb]) for verb in verbs], col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(verb, help=line) for verb, line in VERBS.items() if verb.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def grouped() -> dict[str, list[str]]:
    """Every verb once, under its title."""
    found = {title: [verb for verb in verbs if verb in VERBS] for title, verbs in GROUPS.items()}
    placed = {verb for verbs in found.values() for verb in verbs}
    if rest := [verb for verb in VERBS if verb not in placed]:
        found["More"] = rest
    return found


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 not running, 4 permission, 5 timeout, 6 configuration, 7 conflict.",
)
@click.option(
    "--config",
    metavar="PATH",
    type=click.Path(),
    help="The configuration. Without it: $LLMSUP_CONFIG, else ./config/llmsup.yaml, else /etc/llmsup/llmsup.yaml.",
)
@click.version_option(__version__, prog_name="llmsup")
@click.pass_context
def root(ctx: click.Context, config: str | None) -> None:
    """Keeps llama.cpp's llama-server answering.

    Builds and starts llama-server, watches and restarts it, and stands in front of it on one fixed port.

    \b
    Examples:
      llmsup start            begin; http://127.0.0.1:8005 answers as llama-server does
      llmsup chat "Hello"     ask something
      llmsup top              look
      llmsup stop             end
      llmsup why --help       what a verb takes, with examples
    """
    if streams.colourless():
        ctx.color = False


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code, never raises."""
    streams.fill()
    try:
        code = root.main(args=list(arguments), prog_name="llmsup", standalone_mode=False)
    except click.exceptions.Abort:
        if sys.stderr.isatty():
            output.echo(err=True)  # below the ^C
        code = _say("interrupted", INTERRUPTED)
    except click.ClickException as exc:
        with contextlib.suppress(OSError):  # a full disk behind stderr: the exit code says it
            output.echo(_told(exc), err=True, nl=False)
        code = exc.exit_code
    except LlmsupError as exc:
        if isinstance(exc, BuildError) and exc.detail:
            with contextlib.suppress(OSError):
                output.echo(exc.detail, err=True)
        code = _say(str(exc), exc.exit_code)
    except SystemExit as exc:
        # 1 is click's answer to EPIPE: the reader (head, less) has left, which is no error. Verbs say others.
        code = exc.code if isinstance(exc.code, int) and exc.code != 1 else 0
    except OSError as exc:
        code = _say_os(exc)
    except (
        Exception
    ) as exc:  # a defect of ours, or an answer of a daemon that is not as this command knows it
        if os.environ.get(TRACEBACK):
            raise
        code = _say_defect(exc)
    return code if isinstance(code, int) else 0


def _told(error: click.ClickException) -> str:
    """As click says it: the usage, what is wrong, and where help is. An argument may be a file name of anybody's."""
    words = io.StringIO()
    error.show(words)
    return words.getvalue()


_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there: the quota is used up",
    errno.EROFS: "it is mounted read-only",
    errno.EACCES: "run the command as the user that runs llmsup",
    errno.EPERM: "run the command as the user that runs llmsup",
    errno.EMFILE: "allow more open files: ulimit -n",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOMEM: "the machine has no memory left",
}


def _say_os(error: OSError) -> int:
    """What the system refused. Without a file's name it was the output: all else is said by whoever did it."""
    where = error.filename or "the output"
    remedy = _REMEDIES.get(error.errno or 0)
    told = f"{where}: {error.strerror or error}{f' ({remedy})' if remedy else ''}"
    return _say(told, 4 if isinstance(error, PermissionError) else 1)


def _say_defect(error: Exception) -> int:
    import traceback

    at = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return _say(
        f"{what} at {os.path.basename(at.filename)}:{at.lineno} (is the running llmsup of another version? then: "
        f"llmsup stop && llmsup start; else report it with what {TRACEBACK}=1 shows)",
        1,
    )


def _say(message: str, code: int) -> int:
    prefix = output.style("llmsup: error:", fg="red", bold=True)
    with contextlib.suppress(OSError):
        output.echo(f"{prefix} {message}", err=True)
    return code
