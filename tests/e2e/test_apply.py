"""``sandnet apply`` and ``sandnet export`` against a real daemon."""

from __future__ import annotations

import subprocess

from tests.support.daemon import SANDNET, RunningDaemon, mapping

FILE = """
name: shop
networks:
  front:
    subnet: 10.9.0.0/24
    mtu: 1400
    host_access: [53/udp]
    labels: {tier: front}
  back:
    internal: true
    ipv6: true
services:
  web:
    network: front
    ports: [8080:80, 127.0.0.1:9000-9002:90-92/udp, 7000-7010:70, 60]
    expose: [443]
    aliases: [www]
    probe: {kind: tcp, port: 80}
  web-back:
    name: web
    network: back
    labels: {a: "1e3"}
"""
NOTHING = ""


def apply(daemon: RunningDaemon, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [str(SANDNET), "-H", f"unix://{daemon.run}/sandnet.sock", "apply", "-f", "-", *options]
    return daemon.host.run(
        lambda: subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, check=False)
    )


def applied(daemon: RunningDaemon, text: str, *options: str) -> str:
    """Apply a file without a failure, and return what is printed."""
    result = apply(daemon, text, *options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(daemon: RunningDaemon, text: str, *options: str) -> str:
    """Apply a file that is refused, and return the errors."""
    result = apply(daemon, text, *options)
    assert (result.returncode, result.stdout) == (1, NOTHING)
    return result.stderr


def names(daemon: RunningDaemon, kind: str) -> list[str]:
    return [each["name"] for each in daemon.api.get(f"/{kind}")]


def test_apply_makes_what_is_declared_once(daemon: RunningDaemon) -> None:
    created = "+ network front\n+ network back\n+ service web.front\n+ service web.back\n"
    assert applied(daemon, FILE, "--dry-run") == created
    assert "front" not in names(daemon, "networks")
    assert applied(daemon, FILE) == created
    assert daemon.api.reported("front")["options"]["mtu"] == 1400
    ports = daemon.api.reported("front", "web")["port_mapping"]
    assert [(port["host_ip"], port["port"]) for port in ports] == [
        ("0.0.0.0", 80), ("127.0.0.1", 90), ("127.0.0.1", 91), ("127.0.0.1", 92), ("0.0.0.0", 70), ("0.0.0.0", 60),
    ]  # fmt: skip
    assert applied(daemon, FILE) == applied(daemon, FILE, "--prune") == NOTHING


def test_apply_of_an_export_changes_nothing(daemon: RunningDaemon) -> None:
    applied(daemon, FILE)
    daemon.api.network("other", "bridge", ipv6=True, dns_search=["example.org"])
    daemon.api.endpoint("other", "db", mapping(5432), labels={"a": "no", "b": "é: #"})
    everything = daemon.cli("export")
    assert applied(daemon, everything, "--prune") == NOTHING
    assert [name in everything for name in ("web.back:", "other:", "  none:", "  host:")] == [True, True, False, False]
    daemon.api.clear()
    assert applied(daemon, everything).count("+") == 6
    assert daemon.cli("export", "--project", "exported") == everything
    assert applied(daemon, daemon.cli("export")) == NOTHING


def test_prune_deletes_only_what_the_project_made(daemon: RunningDaemon) -> None:
    applied(daemon, FILE)
    applied(daemon, "name: other\nnetworks: {theirs: {}}\nservices: {db: {network: theirs}}")
    daemon.api.network("by-hand")
    daemon.api.endpoint("front", "by-hand")
    left = (
        "name: shop\nnetworks: {front: {subnet: 10.9.0.0/24, mtu: 1400, host_access: [53/udp], labels: {tier: front}}}"
    )
    assert applied(daemon, left) == NOTHING
    deleted = "- service web.front\n- service web.back\n- network back\n"
    assert applied(daemon, left, "--prune", "-n") == applied(daemon, left, "--prune") == deleted
    assert sorted(names(daemon, "services")) == ["by-hand", "db"]
    assert applied(daemon, left, "--prune") == NOTHING
    assert {"front", "theirs", "by-hand"} <= {*names(daemon, "networks")}


def test_additional_addresses_are_declared_and_exported(daemon: RunningDaemon) -> None:
    file = (
        "name: shop\nnetworks:\n  front: {subnet: 10.9.0.0/24, subnet_ipv6: 'fd00:9::/64'}\nservices:\n"
        "  web: {network: front, additional_addresses: [10.9.0.50, 'fd00:9:0::50']}\n"
    )
    applied(daemon, file)
    assert daemon.api.reported("front", "web")["additional_addresses"] == ["10.9.0.50/24", "fd00:9::50/64"]
    assert applied(daemon, file) == NOTHING
    assert applied(daemon, daemon.cli("export")) == NOTHING
    change = "~ service web.front\n    additional_addresses: 10.9.0.50, fd00:9::50 -> 10.9.0.51\n"
    assert applied(daemon, file.replace("10.9.0.50, 'fd00:9:0::50'", "10.9.0.51")) == change
    assert daemon.api.reported("front", "web")["additional_addresses"] == ["10.9.0.51/24"]
    assert "is given twice" in apply(daemon, file.replace("'fd00:9:0::50'", "10.9.0.50")).stderr


def test_service_without_containers_is_replaced(daemon: RunningDaemon) -> None:
    applied(daemon, FILE)
    changed = FILE.replace("www", "shop")
    assert applied(daemon, changed, "-n") == "~ service web.front\n    aliases: www -> shop\n"
    applied(daemon, changed)
    assert daemon.api.reported("front", "web")["aliases"] == ["shop"]
    daemon.api.join("front", "web", "web-1")
    errors = refused(daemon, FILE)
    assert "service web.front cannot be changed: containers are attached to it" in errors
    assert daemon.api.reported("front", "web")["aliases"] == ["shop"]


def test_objects_of_others_are_never_changed(daemon: RunningDaemon) -> None:
    daemon.api.network("front", mtu=1300)
    assert "the project shop did not make it" in refused(daemon, FILE)
    assert "back" not in names(daemon, "networks")
    assert daemon.api.reported("front")["options"]["mtu"] == 1300
    assert applied(daemon, "name: shop\nnetworks: {front: {mtu: 1300}}", "--prune") == NOTHING


def test_failed_step_is_reported_and_the_next_apply_goes_on(daemon: RunningDaemon) -> None:
    daemon.api.network("taken")
    daemon.api.endpoint("taken", "db", mapping(80, 8080))
    result = apply(daemon, FILE)
    assert result.returncode == 1
    assert "8080" in result.stderr
    assert result.stdout == "+ network front\n+ network back\n+ service web.back\n"
    daemon.api.delete("/networks/taken/endpoints/db")
    assert applied(daemon, FILE) == "+ service web.front\n"


def test_network_in_use_changes_without_interruption(daemon: RunningDaemon) -> None:
    applied(daemon, FILE)
    daemon.api.join("front", "web", "web-1")
    network = daemon.api.reported("front")["id"]
    changed = FILE.replace("mtu: 1400", "mtu: 1300").replace("tier: front", "tier: outside")
    assert (
        applied(daemon, changed) == "~ network front\n    labels: tier=front -> tier=outside\n    mtu: 1400 -> 1300\n"
    )
    reported = daemon.api.reported("front")
    assert (reported["id"], reported["options"]["mtu"]) == (network, 1300)
    assert reported["labels"] == {"tier": "outside", "sandnet.project": "shop"}
    assert applied(daemon, changed) == NOTHING
    assert "it has endpoints" in refused(daemon, changed.replace("mtu: 1300", "icc: false"))
