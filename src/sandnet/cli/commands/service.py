"""``sandnet service``: publish, unpublish, attach, detach, drain, undrain, weight, limit, ls, info."""

from __future__ import annotations

from typing import Literal

import click

from sandnet.cli import completers, output, parameters
from sandnet.cli.groups import Group
from sandnet.cli.listing import Style, info_options, list_options, show_list, show_one
from sandnet.cli.parameters import Reference
from sandnet.cli.rates import bandwidth, rate_options
from sandnet.cli.requests import create_options, join_options, join_request, service_request
from sandnet.cli.resolve import find_container, find_service
from sandnet.cli.session import Session, each, waiting
from sandnet.cli.taps import show_tap
from sandnet.library.port_arguments import protocol


@click.group(cls=Group)
def service() -> None:
    """Publish services and attach containers to them.

    SERVICE[.NETWORK] is a name, an id or a unique prefix of one; the last dot separates.

    \b
    Example:
      sandnet service publish -p 8080:80 web.blue
      sandnet service attach web-1 web.blue
      sandnet service ls
    """


_service_argument = click.argument(
    "reference", metavar="SERVICE[.NETWORK]", type=parameters.REFERENCE, shell_complete=completers.services
)


@service.command(short_help="Publish a service.")
@click.argument("reference", metavar="SERVICE[.NETWORK]", type=parameters.REFERENCE)
@create_options
@click.pass_obj
def publish(session: Session, /, reference: Reference, **values: object) -> None:
    """Publish a service and print its id. Without NETWORK it is on the daemon's default network.

    \b
    Example:
      sandnet service publish web.blue
      sandnet service publish -p 127.0.0.1:8000-8010:80/tcp -p 53:53/udp --ip 10.9.0.7 web.blue
      sandnet service publish --alias www --affinity client web.blue
    """
    with waiting(f"publishing {reference.name}"):
        output.line(session.client.publish(service_request(reference.name, reference.network, values)))


@service.command(short_help="Unpublish services.")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE[.NETWORK]...", shell_complete=completers.services)
@output.force_option
@click.pass_obj
def unpublish(session: Session, services: tuple[str, ...], force: bool) -> None:
    """Unpublish services. A service must have no backends that are alive.

    Goes on past those that fail; the status is 1 if any did.

    \b
    Example:
      sandnet service unpublish web.blue db.blue
    """
    client = session.client

    def one(text: str) -> None:
        client.unpublish(find_service(client, parameters.reference_or_error(text)).id, force=force)

    each(services, "unpublishing", one)


@service.command(short_help="Attach a container to a service.")
@click.argument("container", shell_complete=completers.containers)
@_service_argument
@join_options
@click.pass_obj
def attach(session: Session, /, container: str, reference: Reference, **values: object) -> None:
    """Attach CONTAINER to a service as a backend, and print the path of its sandbox, or its tap.

    CONTAINER is any id of your own: its sandbox is made with the first attachment and goes with the last.

    \b
    Example:
      sandnet service attach web-1 web.blue
      sandnet service attach --pid 4711 --add-host db:10.9.0.3 web-1 web.blue
      sandnet service attach --weight 10 web-2 web.blue
    """
    request = join_request(find_container(session.client, container), values)
    with waiting(f"attaching {container}"):
        service = find_service(session.client, reference).id
        if request.type == "tap":
            show_tap(session.client.attach_tap(service, request), str(values["tap_format"]))
        else:
            output.line(session.client.attach(service, request))


@service.command(short_help="Detach a container from a service.")
@click.argument("container", shell_complete=completers.containers)
@_service_argument
@click.pass_obj
def detach(session: Session, container: str, reference: Reference) -> None:
    """Detach CONTAINER from a service.

    \b
    Example:
      sandnet service detach web-1 web.blue
    """
    with waiting(f"detaching {container}"):
        session.client.detach(find_service(session.client, reference).id, container)


@service.command(short_help="Send a backend no new flows.")
@click.argument("container", shell_complete=completers.containers)
@_service_argument
@click.pass_obj
def drain(session: Session, container: str, reference: Reference) -> None:
    """Send CONTAINER no new flows of a service; those it has go on.

    \b
    Example:
      sandnet service drain web-1 web.blue
    """
    _change(session, container, reference, state="drained")


@service.command(short_help="Send a drained backend new flows again.")
@click.argument("container", shell_complete=completers.containers)
@_service_argument
@click.pass_obj
def undrain(session: Session, container: str, reference: Reference) -> None:
    """Send CONTAINER, which was drained, new flows of a service again.

    \b
    Example:
      sandnet service undrain web-1 web.blue
    """
    _change(session, container, reference, state="active")


@service.command(short_help="Change a backend's share of the new flows.")
@click.argument("container", shell_complete=completers.containers)
@_service_argument
@click.argument("share", metavar="N", type=click.IntRange(1, 100))
@click.pass_obj
def weight(session: Session, container: str, reference: Reference, share: int) -> None:
    """Give CONTAINER a share of N (1 to 100) of a service's new flows, where each other backend has its own.

    \b
    Example:
      sandnet service weight web-1 web.blue 10
    """
    _change(session, container, reference, weight=share)


@service.command(short_help="Limit a service's traffic.")
@_service_argument
@rate_options
@click.pass_obj
def limit(session: Session, /, reference: Reference, **values: object) -> None:
    """Limit what each container of a service receives and sends, also while it runs.

    The options are all limits of the service; without any, it has none. A rate has the unit k, m, g or t.

    \b
    Example:
      sandnet service limit --ingress-rate 10mbit --egress-rate 2mbit web.blue
      sandnet service limit web.blue
    """
    from sandnet.wire.bandwidth import Bandwidth, EndpointChange

    with waiting(f"limiting {reference.name}"):
        found = find_service(session.client, reference).id
        session.client.change_service(found, EndpointChange(bandwidth=bandwidth(values) or Bandwidth()))


def _change(
    session: Session,
    container: str,
    reference: Reference,
    *,
    state: Literal["drained", "active"] | None = None,
    weight: int | None = None,
) -> None:
    from sandnet.wire.libnetwork import BackendChange

    with waiting(f"changing {container}"):
        service = find_service(session.client, reference).id
        session.client.change_backend(service, container, BackendChange(state=state, weight=weight))


@service.command(short_help="Print the published ports of a service.")
@_service_argument
@click.argument("requested", metavar="[PORT[/PROTO]]", type=parameters.EXPOSED, required=False)
@click.pass_obj
def port(session: Session, reference: Reference, requested: tuple[int, int] | None) -> None:
    """Print which ports of the host lead to a service, or to one port of it.

    \b
    Example:
      sandnet service port web.blue
      sandnet service port web.blue 80
    """
    found = session.client.service(find_service(session.client, reference).id, verbose=True)
    bound = [one for one in found.port_mapping or () if requested in (None, (one.proto, one.port))]
    direct = [one for one in found.direct_ports or () if requested in (None, (one.proto, one.port))]
    if requested and not bound and not direct:
        from sandnet.errors import not_found

        raise not_found("published port", f"{requested[1]}/{protocol(requested[0])} of {found.name}")
    for one in bound:
        host = f"[{one.host_ip}]" if ":" in one.host_ip else one.host_ip
        left = "" if requested else f"{one.port}/{protocol(one.proto)} -> "
        output.line(f"{left}{host}:{one.host_port}")
    for each_direct in direct:
        from sandnet.cli.describe import direct_port

        output.line(direct_port(each_direct))


@service.command(short_help="List services.")
@click.option("--network", metavar="NETWORK", help="Only this network's.", shell_complete=completers.networks)
@list_options
@click.pass_obj
def ls(session: Session, /, network: str | None, **style: object) -> None:
    """List services in the order of their creation, with the containers behind them.

    \b
    Example:
      sandnet service ls
      sandnet service ls --network blue -q
      sandnet service ls --filter label=tier=front --format '{{.Name}} {{.Address}}'
    """
    from sandnet.cli.describe import SERVICE_COLUMNS, service_row
    from sandnet.wire.libnetwork import Service

    how = Style.of(style)
    answer = session.client.get("/services", verbose=True, network=network)
    headings = ("SERVICE ID", *SERVICE_COLUMNS)
    show_list(answer, Service, headings, lambda found: service_row(found, how.no_trunc), how)


@service.command(short_help="Show one service.")
@_service_argument
@info_options
@click.pass_obj
def info(session: Session, reference: Reference, template: str | None, as_json: bool) -> None:
    """Show a service: addresses, bound ports, and each backend's own address, state and weight.

    A backend's state is ready, drained (it gets no new flows by request) or failing (none, as its checks fail).

    \b
    Example:
      sandnet service info web.blue
    """
    from sandnet.cli.describe import endpoint_text
    from sandnet.client import decode, path
    from sandnet.wire.libnetwork import Service

    answer = session.client.get(path("services", find_service(session.client, reference).id), verbose=True)
    show_one(answer, lambda found: endpoint_text("service", decode(found, Service)), template, as_json)
