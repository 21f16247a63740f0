"""The records of the Container Network Model: networks, endpoints, sandboxes and attachments, all immutable."""

from sandnet.model.address import Address, Interface, Prefix
from sandnet.model.endpoint import Affinity, Endpoint, EndpointSpec, Probe, ProbeKind
from sandnet.model.network import Network, NetworkOptions, NetworkSpec, Phase, Subnet
from sandnet.model.peer import Peer
from sandnet.model.ports import BoundPort, ExposedPort, PortMapping
from sandnet.model.process import Process
from sandnet.model.sandbox import Attachment, HostEntry, JoinSpec, Origin, ParentUpdate, Sandbox

__all__ = [
    "Address",
    "Affinity",
    "Attachment",
    "BoundPort",
    "Endpoint",
    "EndpointSpec",
    "ExposedPort",
    "HostEntry",
    "Interface",
    "JoinSpec",
    "Network",
    "NetworkOptions",
    "NetworkSpec",
    "Origin",
    "ParentUpdate",
    "Peer",
    "Phase",
    "PortMapping",
    "Prefix",
    "Probe",
    "ProbeKind",
    "Process",
    "Sandbox",
    "Subnet",
]
