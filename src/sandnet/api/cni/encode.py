"""Conversion of an attachment into a result of the specification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.api.cni.call import Call
from sandnet.core.lifecycle.runtime_attachments import RuntimeAttachment
from sandnet.kernel.types import DefaultRoute
from sandnet.model import Address, Attachment, Network
from sandnet.model.link_names import link_mac
from sandnet.wire import cni as wire

_EVERYTHING: Final = {4: "0.0.0.0/0", 6: "::/0"}


def result(
    call: Call, added: RuntimeAttachment, routes: Sequence[DefaultRoute], name_servers: Sequence[Address]
) -> wire.Result:
    """Return the result of ``ADD``, in the shape of the call's version.

    Args:
        call: the call.
        added: the attachment.
        routes: the default routes through it.
        name_servers: the container's name servers.
    """
    network, attachment = added.network, added.attachment
    on_host = _host_interfaces(network, attachment)
    inside = wire.Interface(name=attachment.interface, mac=attachment.mac, sandbox=call.netns)
    return wire.Result(
        cni_version=call.version,
        interfaces=[*on_host, inside],
        ips=list(_addresses(call, added, len(on_host))),
        routes=[wire.ResultRoute(dst=_EVERYTHING[each.gateway.version], gw=str(each.gateway)) for each in routes],
        dns=wire.Dns(
            nameservers=[str(each) for each in name_servers],
            search=list(added.sandbox.dns_search),
            options=list(added.sandbox.dns_options),
        ),
    )


def _host_interfaces(network: Network, attachment: Attachment) -> list[wire.Interface]:
    """Return the bridge and the host's end of the link; none where the interface has no end on the host."""
    if attachment.supplied:
        return []
    bridge = wire.Interface(name=network.link, mac="" if network.link_adopted else link_mac(network.link))
    return [bridge, wire.Interface(name=attachment.host_link)]


def _addresses(call: Call, added: RuntimeAttachment, index: int) -> Iterator[wire.Address]:
    for own in added.attachment.addresses:
        gateway = added.endpoint.gateway(added.network, own.version)
        yield wire.Address(
            version=str(own.version) if call.version.startswith("0.") else "",
            address=str(own),
            gateway=str(gateway) if gateway else "",
            interface=index,
        )
