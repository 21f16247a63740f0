"""Commands and groups of commands: ``-d=VALUE``, second names, and suggestions for unknown words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import click

SECOND_NAMES = {"list": "ls", "inspect": "info", "delete": "rm", "remove": "rm"}
"""Second names of commands, as users of container tools know them, in any group that has the command."""
COMMANDS_ELSEWHERE = {
    "ps": "sandnet sandbox ls",
    "ls": "sandnet network ls, sandnet service ls or sandnet sandbox ls",
    "list": "sandnet network ls, sandnet service ls or sandnet sandbox ls",
    "info": "sandnet status, or sandnet network info NETWORK",
    "inspect": "sandnet network inspect NETWORK, sandnet service inspect SERVICE or sandnet sandbox inspect CONTAINER",
    "exec": "sandnet sandbox exec CONTAINER -- COMMAND",
    "port": "sandnet service port SERVICE",
    "rm": "sandnet network rm NETWORK or sandnet service unpublish SERVICE",
    "prune": "sandnet network prune",
    "publish": "sandnet service publish SERVICE",
    "attach": "sandnet service attach CONTAINER SERVICE",
    "detach": "sandnet service detach CONTAINER SERVICE",
    "network connect": "sandnet service attach CONTAINER SERVICE",
    "network disconnect": "sandnet service detach CONTAINER SERVICE",
    "service create": "sandnet service publish SERVICE",
    "service rm": "sandnet service unpublish SERVICE",
    "service ps": "sandnet service info SERVICE",
    "service update": "sandnet service weight, limit, drain or undrain",
    "sandbox rm": "sandnet service detach CONTAINER SERVICE: a sandbox goes with its last service",
    "sandbox create": "sandnet service attach CONTAINER SERVICE: a sandbox is made with its first service",
    "start": "sandnet daemon",
    "stop": "sandnet down, which also removes all networks; SIGTERM stops the daemon alone",
    "up": "sandnet daemon --detach",
    "system": "sandnet status, sandnet doctor or sandnet network prune",
}
"""The command here for the name that a command has in another tool, or in another group of sandnet."""
NEEDLESS_OPTIONS = {
    "--rm": "leave it out: what run makes is always removed when the command ends",
    "-it": "leave it out: the command has your terminal already",
    "-i": "leave it out: the command has your terminal already",
    "-t": "leave it out: the command has your terminal already",
    "--network": "the option is called --net",
    "--volume": "leave it out: the command sees the host's files",
    "-v": "leave it out: the command sees the host's files",
}
"""Options of other tools' ``run`` that are not needed here, with the reason."""


class Command(click.Command):
    """A command whose short options may be written ``-d=VALUE``, as libnetwork's own client of 2015 accepted them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; the error for an unknown option contains a suggestion."""
        return _parse_args(super().parse_args, self, ctx, args)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the group itself."""
        return _parse_args(super().parse_args, self, ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name or second name."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, SECOND_NAMES.get(cmd_name, ""))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises:
            UsageError: there is none; the message suggests a similar one.
        """
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise click.UsageError(f"no such command: {name}{self._suggestion(ctx, name)}", ctx)
        return super().resolve_command(ctx, args)

    def _suggestion(self, ctx: click.Context, name: str) -> str:
        path = [*ctx.command_path.split()[1:], name]
        elsewhere = COMMANDS_ELSEWHERE.get(" ".join(path))
        if elsewhere:
            return f"; use {elsewhere}"
        known = self.list_commands(ctx)
        near = _nearest(name, [*known, *(second for second, first in SECOND_NAMES.items() if first in known)])
        return f"; did you mean {near}?" if near else ""


def joined_values(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    """Return the words with ``-d=VALUE`` written as click reads it: ``-dVALUE``, or ``-d`` and an empty word."""
    takes_value = {
        name: not (param.is_flag or param.count)
        for param in command.get_params(ctx)
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }
    words = iter(args)
    return [word for group in _groups(words, takes_value, ctx.allow_interspersed_args) for word in group]


def _groups(words: Iterator[str], takes_value: Mapping[str, bool], interspersed: bool) -> Iterator[list[str]]:
    for word in words:
        if word == "--" or not (interspersed or word.startswith("-")):
            yield [word, *words]
        elif word.startswith("--"):
            yield [word, *_next(words, "=" not in word and takes_value.get(word, False))]
        elif word.startswith("-"):
            yield _short(word, words, takes_value)
        else:
            yield [word]


def _short(word: str, words: Iterator[str], takes_value: Mapping[str, bool]) -> list[str]:
    """Return a word of short options: flags, and possibly one option with a value at its end."""
    for place, letter in enumerate(word[1:], 1):
        if takes_value.get(f"-{letter}", False):
            before, rest = word[: place + 1], word[place + 1 :]
            if not rest:
                return [word, *_next(words, True)]
            value = rest.removeprefix("=")
            return [before + value] if value else [before, value]
    return [word]


def _next(words: Iterator[str], takes_value: bool) -> list[str]:
    """Return the next word, if it is an option's value."""
    return [word for word in (next(words, None) if takes_value else None,) if word is not None]


def _parse_args(
    parse: Callable[[click.Context, list[str]], list[str]],
    command: click.Command,
    ctx: click.Context,
    args: list[str],
) -> list[str]:
    try:
        return parse(ctx, joined_values(command, ctx, args))
    except click.NoSuchOption as error:
        name = error.option_name
        known = [opt for param in command.get_params(ctx) for opt in param.opts if opt.startswith("--")]
        needless = NEEDLESS_OPTIONS.get(name) if ctx.info_name == "run" else None
        near = _nearest(name, known)
        more = f"; {needless}" if needless else f"; did you mean {near}?" if near else ""
        raise click.UsageError(f"no such option: {name}{more}", ctx) from error


def _nearest(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, 1, 0.6)), "")
