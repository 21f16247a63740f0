"""The attachments on other hosts, in memory: they count only as long as those hosts are alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandnet.model.remote_attachment import RemoteAttachment


class RemoteAttachments:
    """The attachments on other hosts that count, by endpoint."""

    def __init__(self) -> None:
        self._of_endpoint: dict[str, Sequence[RemoteAttachment]] = {}

    def of_endpoint(self, endpoint_id: str) -> Sequence[RemoteAttachment]:
        """Return the attachments to an endpoint."""
        return self._of_endpoint.get(endpoint_id, ())

    def all(self) -> Iterator[RemoteAttachment]:
        """Yield all attachments."""
        for attachments in self._of_endpoint.values():
            yield from attachments

    def replace(self, endpoint_id: str, attachments: Sequence[RemoteAttachment]) -> None:
        """Replace what is known of an endpoint."""
        if attachments:
            self._of_endpoint[endpoint_id] = attachments
        else:
            self._of_endpoint.pop(endpoint_id, None)
