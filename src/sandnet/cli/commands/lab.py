"""``sandnet lab``: several hosts on one machine, to try and to test what hosts do together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING, TypeVar

import click

from sandnet.cli import output
from sandnet.cli.groups import Group
from sandnet.cli.session import waiting

if TYPE_CHECKING:
    from sandnet.lab.lab_client import HostNamespaces, LabClient
    from sandnet.lab.lab_messages import HostStatus, LabStatus

F = TypeVar("F", bound=Callable[..., object])

name_option = click.option(
    "--name", default="lab", envvar="SANDNET_LAB", metavar="NAME", help="Which lab. Default: $SANDNET_LAB, else lab."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
host_argument = click.argument("number", type=int, metavar="HOST")


@click.group(cls=Group)
def lab() -> None:
    """Make a laboratory: several hosts on this machine, to see what hosts do together.

    Each host has a network, mounts, processes and a daemon of its own. A switch joins them, and an etcd cluster is
    their common store. The machine's own network is neither used nor changed. Hosts are numbered from 1.

    \b
    Example:
      sandnet lab up --hosts 3
      sandnet lab exec 1 -- sandnet status
      sandnet lab partition 1 2,3
      sandnet lab heal
      sandnet lab down
    """


@lab.command(short_help="Start a lab.")
@name_option
@click.option("--hosts", default=3, show_default=True, metavar="N", help="How many hosts there are.")
@click.option(
    "--store/--no-store",
    default=True,
    help="With an etcd cluster (the default): three members on the hosts 1 to 3, or one if there are fewer hosts.",
)
@click.option("--mtu", default=1500, show_default=True, metavar="BYTES", help="Of the network between the hosts.")
@click.option("--etcd-option", multiple=True, metavar="OPTION", help="A further option of each etcd. Can be repeated.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- DAEMON-OPTION...]")
def up(name: str, hosts: int, store: bool, mtu: int, etcd_option: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Start a lab, and return when all of its daemons are ready. It goes on until it is removed.

    What follows -- are further options of each daemon.

    \b
    Example:
      sandnet lab up --hosts 3
      sandnet lab up --name slow --hosts 2 --no-store -- --log-level debug
      sandnet lab up --etcd-option=--quota-backend-bytes=4194304
    """
    from sandnet.lab.environment import program_path
    from sandnet.lab.lab_spec import LabSpec
    from sandnet.lab.startup import start_lab

    spec = LabSpec(
        name=name,
        hosts=hosts,
        store=store,
        mtu=mtu,
        daemon_options=options,
        etcd_options=etcd_option,
        program=program_path(),
    )
    with waiting(f"starting the lab {name}"):
        start_lab(spec, output.line)
    flag = "" if name == "lab" else f"--name {name} "
    output.line(f"the lab {name} is ready; look around: sandnet lab exec {flag}1 -- bash")


@lab.command(short_help="List labs.")
@_json_option
def ls(as_json: bool) -> None:
    """List the labs of this machine; one without hosts was killed, and `down` removes what it has left.

    \b
    Example:
      sandnet lab ls
    """
    from sandnet.lab.lab_client import LabClient
    from sandnet.lab.lab_directory import lab_names

    found = {name: _status_or_none(LabClient(name)) for name in lab_names()}
    if as_json:
        import msgspec

        output.raw(msgspec.json.encode([{"name": name, "status": status} for name, status in found.items()]))
        return
    rows = [
        (name, str(len(status.hosts)), _since(status)) if status else (name, "", "killed")
        for name, status in found.items()
    ]
    output.block(output.table(("LAB", "HOSTS", "SINCE"), rows, width=output.terminal_width()))


def _status_or_none(client: LabClient) -> LabStatus | None:
    from sandnet.errors import Error

    try:
        return client.status()
    except Error:
        return None


def _since(status: LabStatus) -> str:
    from time import gmtime, strftime

    return strftime("%Y-%m-%d %H:%M:%SZ", gmtime(status.since))


@lab.command(short_help="Show the hosts of a lab.")
@name_option
@_json_option
def status(name: str, as_json: bool) -> None:
    """Show the hosts of a lab: whether their daemons serve, their part in the store, and how the network is.

    \b
    Example:
      sandnet lab status
    """
    found = _client(name).status()
    if as_json:
        import msgspec

        output.raw(msgspec.json.encode(found))
        return
    rows = [(str(host.number), host.address, host.daemon, host.store, _network_text(host)) for host in found.hosts]
    head = output.fields((("Directory", found.directory), ("Store", found.store_url)))
    table = output.table(("HOST", "ADDRESS", "DAEMON", "ETCD", "NETWORK"), rows, width=output.terminal_width())
    output.block(f"{head}\n\n{table}")


def _network_text(host: HostStatus) -> str:
    parts = [f"nothing reaches {_numbers(host.cut_from)}"] if host.cut_from else []
    parts += [f"no etcd of {_numbers(host.cut_from_store_of)}"] if host.cut_from_store_of else []
    parts += [f"delay {host.delay * 1000:g} ms"] if host.delay else []
    parts += [f"loss {host.loss * 100:g} %"] if host.loss else []
    return ", ".join(parts)


def _numbers(numbers: tuple[int, ...]) -> str:
    return " and ".join(str(number) for number in numbers)


@lab.command("exec", short_help="Run a command on a host.", context_settings={"allow_interspersed_args": False})
@name_option
@host_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_context
def execute(ctx: click.Context, name: str, number: int, command: tuple[str, ...]) -> None:
    """Run COMMAND on a host: its network, processes and mounts. There, sandnet talks to the daemon of that host.

    The status is that of the command; 127 when it cannot be found.

    \b
    Example:
      sandnet lab exec 1 -- sandnet network ls
      sandnet lab exec 2 -- ping -c1 h1
      sandnet lab exec 3 -- bash
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("say what to run: COMMAND...")
    with _client(name).entry(number) as entry:
        ctx.exit(_run_on_host(entry, words))


def _run_on_host(entry: HostNamespaces, words: tuple[str, ...]) -> int:
    """Run a command with this process as its parent, which forwards signals; return its status."""
    import signal

    from sandnet.cli.execution.child_process import block_signals, wait_for
    from sandnet.cli.execution.nsenter import execute as become
    from sandnet.lab.entry import fork_inside
    from sandnet.lab.environment import set_environment

    mask = block_signals()
    child = fork_inside(entry.namespaces)
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        set_environment()
        become(words)
    return wait_for(child)


@lab.command(short_help="Cut hosts off from each other.")
@name_option
@click.option("--one-way", is_flag=True, help="Drop only what the first group sends to the others.")
@click.option("--store-only", is_flag=True, help="Drop only what belongs to etcd, as if its ports were filtered.")
@click.argument("groups", nargs=-1, required=True, metavar="GROUP GROUP...")
def partition(name: str, one_way: bool, store_only: bool, groups: tuple[str, ...]) -> None:
    """Drop all packets between hosts of different groups. A group is host numbers with commas.

    Hosts that are in no group go on reaching all. Partitions add up until heal. Packets vanish without an answer.

    \b
    Example:
      sandnet lab partition 1 2,3
      sandnet lab partition --one-way 1 2
      sandnet lab partition --store-only 1 2,3
    """
    from sandnet.lab.lab_messages import CutNetwork

    sets = [_group(text) for text in groups]
    if len(sets) < 2:
        raise click.UsageError("name at least two groups: sandnet lab partition 1 2,3")
    if len({number for group in sets for number in group}) < sum(map(len, sets)):
        raise click.UsageError("a host can be in one group only")
    directions = [(sets[0], other) for other in sets[1:]] if one_way else permutations(sets, 2)
    pairs = tuple((source, target) for first, second in directions for source in first for target in second)
    _client(name).request(CutNetwork(pairs, store_only))


def _group(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of host numbers, as 2,3", param_hint="GROUP") from None


@lab.command(short_help="Undo partitions, delays and losses.")
@name_option
def heal(name: str) -> None:
    """Undo all partitions, delays and losses.

    \b
    Example:
      sandnet lab heal
    """
    from sandnet.lab.lab_messages import HealNetwork

    _client(name).request(HealNetwork())


@lab.command(short_help="Delay what a host sends and receives.")
@name_option
@host_argument
@click.argument("milliseconds", type=click.FloatRange(0, 60_000), metavar="MILLISECONDS")
def delay(name: str, number: int, milliseconds: float) -> None:
    """Hold each frame from and to a host for a time; 0: no longer. A round trip takes twice as long.

    \b
    Example:
      sandnet lab delay 2 20
    """
    from sandnet.lab.lab_messages import ImpairHost

    _client(name).request(ImpairHost(number, milliseconds / 1000, None))


@lab.command(short_help="Lose some of what a host sends and receives.")
@name_option
@host_argument
@click.argument("percent", type=click.FloatRange(0, 100), metavar="PERCENT")
def loss(name: str, number: int, percent: float) -> None:
    """Lose a share of the frames from and to a host; 0: none.

    \b
    Example:
      sandnet lab loss 2 5
    """
    from sandnet.lab.lab_messages import ImpairHost

    _client(name).request(ImpairHost(number, None, percent / 100))


@lab.command(short_help="Kill the daemon of a host, or the host.")
@name_option
@host_argument
@click.option("--power", is_flag=True, help="Kill everything on the host, with its network and its member of etcd.")
@click.option("--lose-state", is_flag=True, help="With --power: sandnet's state is lost as well.")
def kill(name: str, number: int, power: bool, lose_state: bool) -> None:
    """Kill the daemon of a host (SIGKILL). With --power the whole host stops at once, without a last packet.

    etcd keeps its data, with --lose-state too: replacing a member is a matter of etcd.

    \b
    Example:
      sandnet lab kill 2
      sandnet lab kill --power --lose-state 2
    """
    from sandnet.lab.lab_messages import KillHost

    if lose_state and not power:
        raise click.UsageError("--lose-state goes with --power: a running kernel keeps what the state describes")
    _client(name).request(KillHost(number, power, lose_state))


@lab.command(short_help="Start a host, or its daemon, again.")
@name_option
@host_argument
def start(name: str, number: int) -> None:
    """Start what does not run on a host, and wait until its daemon serves. A stopped member of etcd stays so, unless
    the host had no power.

    \b
    Example:
      sandnet lab start 2
    """
    with waiting(f"starting the host {number}"):
        _client(name).start_host(number)


@lab.group(cls=Group)
def etcd() -> None:
    """Stop, kill and start members of the etcd cluster.

    \b
    Example:
      sandnet lab etcd kill 1
    """


def _member_command(action: str, help_text: str) -> None:
    @etcd.command(action, short_help=help_text, help=f"{help_text}\n\n\b\nExample:\n  sandnet lab etcd {action} 1")
    @name_option
    @host_argument
    def command(name: str, number: int) -> None:
        from sandnet.lab.lab_messages import ChangeMember

        _client(name).request(ChangeMember(number, action))


_member_command("start", "Start the member of etcd on a host.")
_member_command("stop", "Stop the member of etcd on a host (SIGTERM): a leader hands over first.")
_member_command("kill", "Kill the member of etcd on a host (SIGKILL).")


@lab.command(short_help="Remove a lab.")
@name_option
@click.option("--all", "every", is_flag=True, help="Remove all labs.")
def down(name: str, every: bool) -> None:
    """Kill everything in a lab and remove its files; also what a killed lab has left.

    \b
    Example:
      sandnet lab down
    """
    from sandnet.cli.session import each
    from sandnet.lab.lab_directory import lab_names

    each(lab_names() if every else [name], "removing the lab", lambda found: _client(found).remove())


def _client(name: str) -> LabClient:
    from sandnet.lab.lab_client import LabClient

    return LabClient(name)
