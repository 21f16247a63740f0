"""The root of the command tree: the commands, and the modules of their code."""

from __future__ import annotations

import click

from sandnet.cli.lazy_group import Lazy, LazyGroup
from sandnet.cli.session import Session


class Root(LazyGroup):
    """The commands of ``sandnet``."""

    lazy = {
        "daemon": Lazy("sandnet.cli.commands.daemon:daemon", "Run the server."),
        "down": Lazy("sandnet.cli.commands.daemon:down", "Remove everything the server made on this host."),
        "state": Lazy("sandnet.cli.commands.state:state", "Export and import the server's state."),
        "network": Lazy("sandnet.cli.commands.network:network", "Create, change, list and delete networks."),
        "endpoint": Lazy("sandnet.cli.commands.endpoint:endpoint", "Create endpoints and join containers to them."),
        "service": Lazy("sandnet.cli.commands.service:service", "Publish services and attach containers to them."),
        "apply": Lazy("sandnet.cli.commands.apply:apply", "Make the networks and services that a file declares."),
        "export": Lazy("sandnet.cli.commands.apply:export", "Print networks and services as a file for apply."),
        "sandbox": Lazy("sandnet.cli.commands.sandbox:sandbox", "Look at sandboxes and run commands in them."),
        "node": Lazy(
            "sandnet.cli.hosts.node:node",
            "Look at the hosts that share networks, and remove one.",
        ),
        "dns": Lazy("sandnet.cli.commands.dns:dns", "Show the answer that a container would get for a name."),
        "events": Lazy("sandnet.cli.commands.events:events", "Print changes as they happen."),
        "status": Lazy("sandnet.cli.commands.status:status", "Say how the daemon is, and what there is."),
        "doctor": Lazy(
            "sandnet.cli.commands.doctor:doctor", "Compare what is recorded with what there is, and repair it."
        ),
        "run": Lazy("sandnet.cli.commands.run:run", "Run a command in a new sandbox on a network."),
        "oci-hook": Lazy("sandnet.cli.commands.oci_hook:oci_hook", "Attach a container of runc or crun, as its hook."),
        "lab": Lazy(
            "sandnet.cli.commands.lab:lab",
            "Make a laboratory: several hosts on this machine, to see what hosts do together.",
        ),
        "completion": Lazy("sandnet.cli.commands.completion:completion", "Print a shell's completion script."),
        "version": Lazy(
            "sandnet.cli.commands.version:version", "Print the versions of this program and of the daemon."
        ),
    }


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-H",
    "--host",
    envvar="SANDNET_HOST",
    metavar="URL",
    help="The daemon's address: unix:///path or tcp://host:port. Default: $SANDNET_HOST, "
    "else unix:///run/sandnet/sandnet.sock.",
)
@click.option("--tls-ca", envvar="SANDNET_TLS_CA", metavar="FILE", help="Who may have signed the daemon's certificate.")
@click.option("--tls-cert", envvar="SANDNET_TLS_CERT", metavar="FILE", help="Own certificate, for TCP with TLS.")
@click.option("--tls-key", envvar="SANDNET_TLS_KEY", metavar="FILE", help="Its key. All three: PEM files.")
@click.version_option(package_name="sandnet")
@click.pass_context
def root(ctx: click.Context, host: str | None, tls_ca: str | None, tls_cert: str | None, tls_key: str | None) -> None:
    """Container networking without a container engine.

    \b
    Example:
      sandnet network create blue
      sandnet run --net blue --name web -p 8080:80 -- python3 -m http.server 80
    """
    ctx.obj = Session(host, (tls_ca, tls_cert, tls_key))
