"""``sandnet completion``."""

from __future__ import annotations

import click

from sandnet.cli import output
from sandnet.cli.groups import Command


@click.command(cls=Command, short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and the daemon's names in SHELL.

    \b
    Example:
      sandnet completion bash > /etc/bash_completion.d/sandnet
      sandnet completion zsh > "${fpath[1]}/_sandnet"
      sandnet completion fish > ~/.config/fish/completions/sandnet.fish
    """
    from click.shell_completion import get_completion_class

    writer = get_completion_class(shell)
    if writer is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    script = writer(ctx.find_root().command, {}, "sandnet", "_SANDNET_COMPLETE")
    # Not script.source(): for bash it starts a bash to get its version.
    output.block(script.source_template % script.source_vars())
