"""The daemon's configuration: defaults, then a TOML file, then the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import msgspec

from sandnet.drivers.dhcp_addresses import TIMEOUT
from sandnet.drivers.overlay.encryption import KEY_PERIOD, LEAST_PERIOD, TUNNEL_PORT
from sandnet.errors import Error, invalid
from sandnet.ipam.pools import DEFAULT_POOLS
from sandnet.model.address import decode_hook
from sandnet.model.network import MAX_FLOWS, MOST_FLOWS
from sandnet.stores.etcd.location import Credentials, EtcdLocation, names_etcd, parse

DEFAULT_SOCKET = "unix:///run/sandnet/sandnet.sock"
EMBEDDED = "sqlite"
"""The store URL of the default: a SQLite file in the state directory."""

MOST_DHCP_TIMEOUT = 50
"""Limit of the wait for an address: less than the time in which each request is answered."""
MOST_PREPARED = 1024
"""Limit of prepared sandboxes: 300 MiB of the kernel's memory, and 3,072 descriptors."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of an operator. These names are the keys of the file."""

    hosts: tuple[str, ...] = (DEFAULT_SOCKET,)
    """Where to listen: ``unix:///path`` or ``tcp://ADDRESS:PORT``; beyond loopback only with the three TLS files."""
    plugin_socket: str = ""
    """Path of the socket for container engines, as ``/run/docker/plugins/sandnet.sock``; empty: none, unless the
    service manager passes one."""
    plugin_dirs: tuple[str, ...] = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
    """Where network plugins are found, whose names are drivers: ``NAME.sock``, ``NAME.spec``, ``NAME.json``."""
    engine_socket: str = ""
    """Path of the container engine's own API, as ``/run/docker.sock``: names of its containers are learnt there."""
    tls_cert: str = ""
    """PEM file with the certificate for TCP clients, followed by any intermediate ones."""
    tls_key: str = ""
    """PEM file: its key, without password, readable by root only."""
    tls_ca: str = ""
    """PEM file with certificates of the CAs that may sign the clients'. A client with such a certificate is root here.
    """
    server_names: tuple[str, ...] = ()
    """Further names and addresses by which TCP clients call this server."""
    state_dir: str = "/var/lib/sandnet"
    """Records. Survives a reboot."""
    run_dir: str = "/run/sandnet"
    """The socket, the pid file, and the files of sandboxes. Lost at a reboot."""
    sandbox_dir: str = "/var/run/docker/netns"
    """Where namespaces are pinned."""
    store: str = EMBEDDED
    """``sqlite`` (the embedded store), ``sqlite:///path`` or ``memory:`` (forgets everything). Beside it, several hosts
    may share a store: ``etcd://HOST:PORT,HOST:PORT/PREFIX``, or ``etcds://`` over TLS."""
    store_ca: str = ""
    """PEM file with the CAs of the certificates of etcd's members; empty: those that the machine trusts."""
    store_cert: str = ""
    """PEM file with this host's certificate for etcd."""
    store_key: str = ""
    """PEM file with its key, without password."""
    store_user: str = ""
    """User of etcd."""
    store_password_file: str = ""
    """File whose first line is the user's password."""
    host_name: str = ""
    """Name of this host among those that share a store, unique there; empty: the machine's host name."""
    take_over: bool = False
    """Replace another daemon that has this host's name in the shared store."""
    default_network: str = "bridge"
    """The network of requests with an empty ``network_name``."""
    file_dirs: tuple[str, ...] = ("/var/lib/docker/containers",)
    """Further directories in which requests may name hosts and resolv.conf files. The state directory is one, too."""
    pools: tuple[IPv4Network, ...] = tuple(DEFAULT_POOLS)
    """Pools of subnets for networks that request none."""
    max_flows: int = MAX_FLOWS
    """Limit of tracked flows of one sandbox, if its network sets none; 0: no limit."""
    forward_others: bool = False
    """If sandnet enabled forwarding: forward between the host's other networks as well."""
    dns: bool = True
    """Answer names inside sandboxes by a resolver; false: hosts files contain the names."""
    dns_host_listen: str = ""
    """``ADDRESS:PORT`` at which the host itself can query ``name.network``; empty: nowhere."""
    dns_outstanding: int = 256
    """Limit of concurrent queries of one sandbox to upstream servers."""
    prepared_sandboxes: int = 8
    """How many sandboxes are prepared ahead of joins when there is little demand; 0: none ever."""
    prepared_sandboxes_limit: int = 128
    """How many are prepared at most, after bursts of joins."""
    underlay: str = ""
    """Address of this host at which the others reach it, for networks over several hosts; empty: that of the default
    route."""
    vxlan_port: int = 4789
    """UDP port of networks over several hosts, the same on all of them."""
    wireguard_port: int = TUNNEL_PORT
    """UDP port of what encrypted networks send to this host."""
    wireguard_userspace: bool = False
    """Encrypt by wireguard-go where the kernel has WireGuard, too."""
    key_period: int = KEY_PERIOD
    """Seconds for which this host uses a key for encrypted networks; then it makes another one."""
    dhcp_timeout: int = TIMEOUT
    """Seconds that a join waits for an address, where a DHCP server gives it."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""

    @property
    def own_files(self) -> tuple[str, str]:
        """The directories of hosts and resolv.conf files without a requested path, new ones in the first.

        The run directory is on a memory file system, where a file costs a tenth of what it costs on a disk. Earlier
        releases used the state directory.
        """
        return f"{self.run_dir}/sandboxes", f"{self.state_dir}/sandboxes"

    @property
    def shared_store(self) -> EtcdLocation | None:
        """The store that several hosts share; ``None``: there is none.

        Raises:
            Error: ``INVALID``: it is malformed; :func:`load` has checked it.
        """
        credentials = Credentials(
            self.store_ca, self.store_cert, self.store_key, self.store_user, self.store_password_file
        )
        if names_etcd(self.store):
            return parse(self.store, credentials)
        if any(credentials):
            raise invalid("store_ca, store_cert, store_key and store_user are for a store on etcd", "set store")
        return None


def load(path: str | None, overrides: Mapping[str, object], recorded: Mapping[str, object] | None = None) -> Config:
    """Return the configuration in force.

    Args:
        path: a TOML file; ``None``: none.
        overrides: fields given on the command line; ``None`` and empty values count as not given.
        recorded: fields of an earlier daemon, instead of the defaults.

    Raises:
        Error: ``INVALID`` when the file is missing, is no TOML, or has unknown keys or wrong types.
    """
    values = {**_read(path), **{key: value for key, value in overrides.items() if value not in (None, (), [])}}
    values = {**(recorded or {}), **values}
    if "run_dir" in values and "hosts" not in values:
        values["hosts"] = (f"unix://{values['run_dir']}/sandnet.sock",)
    given = {key for key in values if key not in overrides}
    try:
        config = msgspec.convert(values, Config, dec_hook=decode_hook, strict=True)
        _check(config)
    except msgspec.ValidationError as failure:
        message, hint = f"invalid configuration: {failure}", _nearest_key(str(failure)) or "see docs/operations.md"
        raise invalid(_located(message, path, given), hint, "invalid_configuration") from failure
    except Error as failure:
        raise invalid(_located(failure.message, path, given), failure.hint, failure.code) from failure
    return config


def _located(message: str, path: str | None, keys: Collection[str]) -> str:
    """Return the message with the file and the line of the key that it names."""
    named = next((word for word in re.findall(r"\w+", message) if word in keys), None)
    if path is None or named is None:
        return message
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    number = next((n for n, line in enumerate(lines, 1) if re.match(rf"\s*[\"']?{named}[\"']?\s*=", line)), 0)
    return f"{path}, line {number}: {message}" if number else f"{path}: {message}"


def _nearest_key(message: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    near = get_close_matches(unknown[1], Config.__struct_fields__, 1) if unknown else []
    return f"did you mean {near[0]}?" if near else ""


def _read(path: str | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as failure:
        raise invalid(f"cannot read configuration {path}: {failure}", code="invalid_configuration") from failure


def _check(config: Config) -> None:
    for name in ("plugin_socket", "engine_socket"):
        if getattr(config, name) and not getattr(config, name).startswith("/"):
            raise invalid(f"{name} must be an absolute path", code="invalid_configuration")
    for name in ("state_dir", "run_dir", "sandbox_dir"):
        if not getattr(config, name).startswith("/"):
            raise invalid(f"{name} must be an absolute path", code="invalid_configuration")
    _ = config.shared_store
    if config.dns_host_listen:
        _check_listen(config.dns_host_listen)
    if not 0 <= config.max_flows <= MOST_FLOWS:
        raise invalid(f"max_flows must be between 0 and {MOST_FLOWS}", "0: no limit", "invalid_configuration")
    if not 1 <= config.dhcp_timeout <= MOST_DHCP_TIMEOUT:
        message = f"dhcp_timeout must be between 1 and {MOST_DHCP_TIMEOUT} seconds"
        raise invalid(message, f"the default is {TIMEOUT}", "invalid_configuration")
    _check_pool(config)
    _check_underlay(config)
    if config.log_level not in ("debug", "info", "warning", "error"):
        hint = "use debug, info, warning or error"
        raise invalid(f"unknown log_level {config.log_level!r}", hint, "invalid_configuration")


def _check_underlay(config: Config) -> None:
    try:
        usable = not config.underlay or not ip_address(config.underlay).is_unspecified
    except ValueError:
        usable = False
    if not usable:
        raise invalid(f"underlay {config.underlay!r} is no address", "use one of this host", "invalid_configuration")
    if not 0 < config.wireguard_port < 65536 or config.wireguard_port == config.vxlan_port:
        message = "wireguard_port must be between 1 and 65535, and not vxlan_port"
        raise invalid(message, f"{TUNNEL_PORT} is the default", "invalid_configuration")
    if config.key_period < LEAST_PERIOD:
        message = f"key_period must be at least {LEAST_PERIOD} seconds"
        raise invalid(message, f"the default is a day, {KEY_PERIOD}", "invalid_configuration")
    if not 0 < config.vxlan_port < 65536:
        raise invalid("vxlan_port must be between 1 and 65535", "4789 is that of VXLAN", "invalid_configuration")


def _check_pool(config: Config) -> None:
    least, most = config.prepared_sandboxes, config.prepared_sandboxes_limit
    if not 0 <= least <= MOST_PREPARED:
        hint = "0: no sandboxes are prepared"
        raise invalid(f"prepared_sandboxes must be between 0 and {MOST_PREPARED}", hint, "invalid_configuration")
    if not 0 <= most <= MOST_PREPARED:
        message = f"prepared_sandboxes_limit must be between 0 and {MOST_PREPARED}"
        raise invalid(message, "each takes about 300 KiB of the kernel's memory", "invalid_configuration")


def _check_listen(text: str) -> None:
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        good = 0 < int(port) < 65536
    except ValueError:
        good = False
    if not good:
        hint = "use ADDRESS:PORT, as 127.0.0.54:53"
        raise invalid(f"dns_host_listen {text!r} is no address and port", hint, "invalid_configuration")
