"""Options of commands that make a tap for a virtual machine, and what they print of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sandnet.cli import output

if TYPE_CHECKING:
    from sandnet.wire.sandbox_interfaces import Tap, TapRequest

F = TypeVar("F", bound=Callable[..., object])

FORMATS = ("text", "json", "qemu", "firecracker", "cloud-hypervisor", "kernel")


class _Id(click.ParamType[int]):
    """A user or a group of this host, by name or number."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        import grp
        import pwd

        if isinstance(value, int) or str(value).isdecimal():
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid if self.name == "user" else grp.getgrnam(value).gr_gid
        except KeyError:
            self.fail(f"there is no {self.name} {value}", param, ctx)


format_option = click.option(
    "--format",
    "tap_format",
    type=click.Choice(FORMATS),
    default="text",
    help="What to print of a tap: arguments of QEMU or Cloud Hypervisor, a configuration of Firecracker, or the "
    "kernel's argument ip=.",
)

_OPTIONS = (
    click.option(
        "--type",
        "link_type",
        type=click.Choice(("veth", "tap")),
        default="veth",
        help="tap: the container is a virtual machine, and gets a tap. Default: veth.",
    ),
    click.option("--owner", type=_Id("user"), metavar="USER", help="User who may open the tap. Default: root."),
    click.option("--group", type=_Id("group"), metavar="GROUP", help="Group whose members may open the tap."),
    click.option("--queues", type=click.IntRange(1, 256), metavar="N", help="Queues of the tap. Default: 1."),
    click.option("--vhost", is_flag=True, help="Let QEMU use /dev/vhost-net."),
    click.option("--no-offload", is_flag=True, help="Let the guest send no large segments or partial checksums."),
    click.option(
        "--tap-place",
        type=click.Choice(("host", "sandbox")),
        help="Where the tap is: on the host, or in the sandbox, where the emulator runs. Default: host.",
    ),
    format_option,
)


def tap_options(command: F) -> F:
    """Add the options of a join that makes a tap."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def requested_tap(values: Mapping[str, Any]) -> TapRequest | None:
    """Return the options of the requested tap; ``None``: none is requested.

    Raises:
        click.UsageError: options of a tap are given without one.
    """
    given = [
        name
        for name in ("owner", "group", "queues", "vhost", "no_offload", "tap_place")
        if values.get(name) not in (None, False)
    ]
    if values.get("link_type") != "tap":
        if given or values.get("tap_format", "text") != "text":
            raise click.UsageError("the options of a tap need --type tap")
        return None
    from sandnet.wire.sandbox_interfaces import TapRequest

    return TapRequest(
        owner=values.get("owner"),
        group=values.get("group"),
        queues=values.get("queues"),
        vhost=values.get("vhost") or None,
        offload=False if values.get("no_offload") else None,
        place=values.get("tap_place"),
    )


def show_tap(tap: Tap, style: str) -> None:
    """Print a tap in one of :data:`FORMATS`."""
    from sandnet.cli import tap_formats

    if style == "json":
        import msgspec

        output.raw(msgspec.json.encode(tap))
    elif style == "text":
        output.block(output.fields(tap_formats.text(tap)))
    else:
        writers = {
            "qemu": tap_formats.qemu,
            "firecracker": tap_formats.firecracker,
            "cloud-hypervisor": tap_formats.cloud_hypervisor,
            "kernel": tap_formats.kernel,
        }
        for line in writers[style](tap).splitlines():
            output.line(line)
