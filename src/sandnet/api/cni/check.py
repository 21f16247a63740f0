"""Compare the result of an earlier ``ADD`` with the attachment: what ``CHECK`` has to find in order."""

from __future__ import annotations

from collections.abc import Iterator

from sandnet.api.cni.call import Call
from sandnet.core.lifecycle.runtime_attachments import RuntimeAttachment
from sandnet.errors import invalid


def differences(call: Call, found: RuntimeAttachment) -> Iterator[str]:
    """Yield what ``prevResult`` has and the attachment has not. Other plugins may have added interfaces of their own.

    Raises:
        Error: ``INVALID`` there is no ``prevResult``.
    """
    previous = call.configuration.prev_result
    if previous is None:
        raise invalid("prevResult is missing", "CHECK needs the result of ADD")
    attachment = found.attachment
    places = [i for i, each in enumerate(previous.interfaces) if each.sandbox and each.name == call.interface]
    if not places:
        yield f"prevResult has no interface {call.interface} in a sandbox"
    own = {str(each) for each in attachment.addresses}
    for i in places:
        if (mac := previous.interfaces[i].mac) not in ("", attachment.mac):
            yield f"the MAC of {call.interface} is {attachment.mac}, not {mac}"
    for each in previous.ips:
        if each.interface in places and each.address not in own:
            yield f"{call.interface} does not have the address {each.address}"
