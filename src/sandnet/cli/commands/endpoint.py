"""``sandnet endpoint``: create, rm, ls, info, join, leave."""

from __future__ import annotations

import click

from sandnet.cli import completers, output, parameters
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.parameters import Reference
from sandnet.cli.requests import create_options, endpoint_request, join_options, join_request
from sandnet.cli.resolve import find_container, find_service
from sandnet.cli.session import Session, each, waiting
from sandnet.cli.taps import show_tap


@click.group(cls=Group)
def endpoint() -> None:
    """Create endpoints and join containers to them.

    An endpoint is a service seen from its network: it takes one container where a service takes many.
    ENDPOINT[.NETWORK] is a name, an id or a unique prefix of one; the last dot separates.

    \b
    Example:
      sandnet endpoint create db.blue
      sandnet endpoint join db-1 db.blue
    """


_endpoint_argument = click.argument(
    "reference", metavar="ENDPOINT[.NETWORK]", type=parameters.REFERENCE, shell_complete=completers.services
)


@endpoint.command(short_help="Create an endpoint.")
@click.argument("reference", metavar="ENDPOINT.NETWORK", type=parameters.REFERENCE)
@create_options
@click.pass_obj
def create(session: Session, /, reference: Reference, **values: object) -> None:
    """Create an endpoint on a network and print its id.

    \b
    Example:
      sandnet endpoint create db.blue
      sandnet endpoint create -p 5432:5432 --mac 02:42:0a:09:00:07 db.blue
    """
    if not reference.network:
        raise click.UsageError("say the network too: ENDPOINT.NETWORK")
    with waiting(f"creating endpoint {reference.name}"):
        output.line(session.client.create_endpoint(reference.network, endpoint_request(reference.name, values)))


@endpoint.command(short_help="Delete endpoints.")
@click.argument(
    "endpoints", nargs=-1, required=True, metavar="ENDPOINT[.NETWORK]...", shell_complete=completers.services
)
@output.force_option
@click.pass_obj
def rm(session: Session, endpoints: tuple[str, ...], force: bool) -> None:
    """Delete endpoints. No container that is alive may be joined to them.

    Goes on past those that fail; the status is 1 if any did.

    \b
    Example:
      sandnet endpoint rm db.blue web.blue
    """
    client = session.client

    def one(text: str) -> None:
        found = find_service(client, parameters.reference_or_error(text), "endpoint")
        client.delete_endpoint(found.network, found.id, force=force)

    each(endpoints, "deleting endpoint", one)


@endpoint.command(short_help="Join a container to an endpoint.")
@click.argument("container", shell_complete=completers.containers)
@_endpoint_argument
@join_options
@click.pass_obj
def join(session: Session, /, container: str, reference: Reference, **values: object) -> None:
    """Join CONTAINER to an endpoint, and print the path of its sandbox, or its tap.

    \b
    Example:
      sandnet endpoint join db-1 db.blue
      sandnet endpoint join --netns /run/netns/mine db-1 db.blue
      sandnet endpoint join --type tap --owner qemu --format qemu vm-1 db.blue
    """
    request = join_request(find_container(session.client, container), values)
    with waiting(f"joining {container}"):
        found = find_service(session.client, reference, "endpoint")
        if request.type == "tap":
            show_tap(session.client.join_tap(found.network, found.id, request), str(values["tap_format"]))
        else:
            output.line(session.client.join(found.network, found.id, request))


@endpoint.command(short_help="Take a container off an endpoint.")
@click.argument("container", shell_complete=completers.containers)
@_endpoint_argument
@click.pass_obj
def leave(session: Session, container: str, reference: Reference) -> None:
    """Take CONTAINER off an endpoint; the endpoint keeps its address and ports.

    \b
    Example:
      sandnet endpoint leave db-1 db.blue
    """
    with waiting(f"leaving {container}"):
        found = find_service(session.client, reference, "endpoint")
        session.client.leave(found.network, found.id, container)


@endpoint.command(short_help="List a network's endpoints.")
@click.argument("network", shell_complete=completers.networks)
@list_options
@click.pass_obj
def ls(session: Session, /, network: str, **style: object) -> None:
    """List the endpoints of NETWORK in the order of their creation.

    \b
    Example:
      sandnet endpoint ls blue
    """
    from sandnet.cli.describe import SERVICE_COLUMNS, service_row
    from sandnet.client import path
    from sandnet.wire.libnetwork import Endpoint

    how = Style.of(style)
    answer = session.client.get(path("networks", network, "endpoints"), verbose=True)
    headings = ("ENDPOINT ID", *SERVICE_COLUMNS)
    show_list(answer, Endpoint, headings, lambda found: service_row(found, how.no_trunc), how)


@endpoint.command(short_help="Show one endpoint.")
@_endpoint_argument
@info_options
@click.pass_obj
def info(session: Session, reference: Reference, template: str | None, as_json: bool) -> None:
    """Show an endpoint: addresses, bound ports, the container.

    \b
    Example:
      sandnet endpoint info db.blue
    """
    from sandnet.cli.describe import endpoint_text
    from sandnet.client import decode, path
    from sandnet.wire.libnetwork import Endpoint

    found = find_service(session.client, reference, "endpoint")
    answer = session.client.get(path("networks", found.network, "endpoints", found.id), verbose=True)
    show_one(answer, lambda found: endpoint_text("endpoint", decode(found, Endpoint)), template, as_json)
