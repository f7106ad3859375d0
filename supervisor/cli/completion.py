"""`llmsup completion SHELL`: the script that lets a shell ask us what may come next."""

import click

from supervisor.cli import output

VARIABLE = "_LLMSUP_COMPLETE"  # set by the script; click answers when it is


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes verbs, options, models, requests and keys in SHELL.

    Models come from the configuration, requests from the running daemon. Needs bash 4.4 or newer, zsh or fish, and
    llmsup in $PATH under that name.

    \b
    Examples:
      llmsup completion bash > ~/.local/share/bash-completion/completions/llmsup
      llmsup completion zsh > ~/.zfunc/_llmsup       with `fpath+=~/.zfunc; compinit` in ~/.zshrc
      llmsup completion fish > ~/.config/fish/completions/llmsup.fish
      eval "$(llmsup completion bash)"               for this shell only
    """
    from click.shell_completion import get_completion_class

    from supervisor.cli.main import root

    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101  click has these three
    output.echo(complete(root, {}, "llmsup", VARIABLE).source())
