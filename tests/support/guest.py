"""A small virtual machine: QEMU, Debian's kernel for clouds, and an initramfs of busybox that serves pages.

Its pages are scripts, so a test can have it do something by a request.
"""

from __future__ import annotations

import itertools
import lzma
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from tests.support.network_host import RunsCommands

_REPOSITORY = Path(__file__).parents[2]
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net"),
)
"""In the order in which they are loaded."""
_INIT = """\
#!/bin/sh
mount -t proc p /proc
mount -t sysfs s /sys
for module in /modules/*; do insmod $module; done
for word in $(cat /proc/cmdline); do case $word in ip=*) settings=${word#ip=} ;; esac; done
IFS=:
set -- $settings
unset IFS
ip link set lo up
ip address add $1/$4 dev $6
ip link set $6 up
ip route add default via $3
[ -z "$8" ] || echo "nameserver $8" > /etc/resolv.conf
echo guest: serving
httpd -f -p 80 -h /srv
poweroff -f
"""
_PAGE = "#!/bin/sh\necho Content-Type: text/plain\necho\n{script}\n"
HELLO = "hello from the guest"


_OPEN_TUN: Final = 'mknod -m 0666 "$0" c 10 200 && mount --bind "$0" /dev/net/tun && exec "$@"'


class Guest:
    """A running virtual machine.

    Args:
        host: the host that has its tap.
        folder: a directory for its files.
        arguments: those of QEMU for its tap.
        kernel_argument: ``ip=…``.
        user: user id that runs QEMU.
        pages: scripts by the names of their pages.
    """

    def __init__(
        self,
        host: RunsCommands,
        folder: Path,
        arguments: str,
        kernel_argument: str,
        user: int,
        pages: Mapping[str, str],
    ) -> None:
        kernel = _kernel()
        image = folder / "initramfs"
        image.write_bytes(_initramfs(kernel, pages))
        image.chmod(0o644)
        self._console = folder / "console"
        with (
            (kernel / "vmlinuz").open("rb") as linux,
            image.open("rb") as initramfs,
            self._console.open("wb") as console,
        ):
            passed = [linux.fileno(), initramfs.fileno()]  # the user may enter neither root's home nor the folder
            device = folder / "tun"  # any user may open it, as udev has it (50-udev-default.rules); not everywhere
            command = [
                *("unshare", "--mount", "sh", "-c", _OPEN_TUN, str(device)),
                *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "160", "-nodefaults", "-no-reboot"),
                *("-display", "none", "-serial", "stdio", "-global", "virtio-net-pci.romfile="),
                *("-kernel", f"/dev/fd/{passed[0]}", "-initrd", f"/dev/fd/{passed[1]}"),
                *("-append", f"console=ttyS0 quiet panic=-1 {kernel_argument}"),
                *arguments.split(),
            ]
            self.process = host.run(lambda: _started(command, console, passed))

    @property
    def console(self) -> str:
        """What it has printed."""
        return self._console.read_text(errors="replace")

    def close(self) -> None:
        """End QEMU, as if the machine lost its power."""
        self.process.kill()
        self.process.wait()


def _started(command: list[str], console: IO[bytes], passed: list[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=passed)


def _kernel() -> Path:
    """Return the directory of Debian's kernel for virtual machines, which ``make test`` has downloaded."""
    folder = _REPOSITORY / "build" / "guest-kernel"
    subprocess.run([_REPOSITORY / "scripts" / "guest-kernel", folder], check=True, capture_output=True)
    return folder


def _initramfs(kernel: Path, pages: Mapping[str, str]) -> bytes:
    scripts = {f"srv/cgi-bin/{name}": _PAGE.format(script=script).encode() for name, script in pages.items()}
    found = {f"modules/{at}.ko": _module(kernel, name) for at, name in enumerate(_MODULES)}
    modules = {path: content for path, content in found.items() if content is not None}
    busybox = Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{applet}": b"/bin/busybox" for applet in applets if applet != "busybox"}
    files = {"init": _INIT.encode(), "bin/busybox": busybox, "srv/index.html": f"{HELLO}\n".encode()}
    return b"".join(_archive({**files, **scripts, **modules}, links))


def _module(kernel: Path, name: str) -> bytes | None:
    """Return a module; ``None``: the kernel has it built in. Debian 13 compresses its modules."""
    plain, compressed = kernel / f"{name}.ko", kernel / f"{name}.ko.xz"
    if plain.exists():
        return plain.read_bytes()
    return lzma.decompress(compressed.read_bytes()) if compressed.exists() else None


def _archive(files: Mapping[str, bytes], links: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield an archive in the format of the kernel (driver-api/early-userspace/buffer-format, ``newc``)."""
    folders = ("bin", "dev", "etc", "modules", "proc", "srv", "srv/cgi-bin", "sys")
    numbers = itertools.count(1)
    for folder in folders:
        yield _entry(next(numbers), folder, 0o40755, b"")
    yield _entry(next(numbers), "dev/console", 0o20600, b"", device=(5, 1))
    for name, content in files.items():
        yield _entry(next(numbers), name, 0o100755, content)
    for name, target in links.items():
        yield _entry(next(numbers), name, 0o120777, target)
    yield _entry(0, "TRAILER!!!", 0, b"")


def _entry(number: int, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
