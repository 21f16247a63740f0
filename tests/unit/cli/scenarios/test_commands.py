from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from sandnet.cli.root import Root, root
from sandnet.config import Config

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]

FOO = "32fbf63200e2897f5de72cb2a4b653e4b1a523b15116e96e3d73f7849e583653"
BAR = "0aee0899e6c5e903cf3ef2bdc28a1c9aaf639c8c8c331fa4ae26344d9e32c1ff"
BOX = "98c5241f9475e9efc17e7198e931fb48166010b80f96d48df204e251378ca547"
KEY = "/var/run/docker/netns/98c5241f9475"

NETWORKS = [
    {"name": "none", "id": "8e4e55c6863e" + "0" * 52, "type": "null", "endpoints": []},
    {"name": "foo", "id": FOO, "type": "bridge", "endpoints": []},
]
SERVICE = {"name": "bar", "id": BAR, "network": "foo"}
VERBOSE = {
    **SERVICE,
    "address": "172.18.0.2/24",
    "address_ipv6": None,
    "mac": "02:42:ac:12:00:02",
    "gateway": "172.18.0.1",
    "exposed_ports": [{"proto": 17, "port": 53}],
    "port_mapping": [{"proto": 6, "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}],
    "backends": [
        {
            "id": BOX,
            "sandbox_key": KEY,
            "interface": "eth0",
            "address": "172.18.0.2/24",
            "address_ipv6": None,
            "state": "ready",
            "weight": 1,
            "holder": True,
        }
    ],
    "created": "2026-01-02T03:04:05Z",
}
SANDBOX = {
    "id": BOX,
    "sandbox_key": KEY,
    "endpoints": [SERVICE],
    "origin": "made",
    "state": "ready",
    "host_name": "bar",
    "hosts_path": "/run/sandnet/sandboxes/x/hosts",
    "interfaces": [
        {
            "endpoint": BAR,
            "network": "foo",
            "interface": "eth0",
            "address": "172.18.0.2/24",
            "address_ipv6": None,
            "mac": "02:42:ac:12:00:02",
            "gateway_priority": 0,
            "state": "ready",
        }
    ],
}


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command line of the tree, groups included."""
    found = [path]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_of_every_command_shows_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(root, [*path, "--help"], prog_name="sandnet")
    assert result.exit_code == 0
    assert "Example:\n    sandnet " in result.output


def test_command_list_describes_each_in_its_own_words() -> None:
    for name, entry in Root.lazy.items():
        command = root.get_command(click.Context(root), name)
        assert command is not None
        assert command.get_short_help_str(200).rstrip(".") == entry.help.rstrip(".")


def test_daemon_and_teardown_flags_become_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Config] = []

    def answering(status: int) -> Callable[[Config], int]:
        def answer(config: Config) -> int:
            seen.append(config)
            return status

        return answer

    monkeypatch.setattr("sandnet.daemon.run", answering(3))
    monkeypatch.setattr("sandnet.daemon.down", answering(4))
    directories = "--state-dir /s --run-dir /r --sandbox-dir /b --store memory:"
    more = "-H unix:///a -H tcp://127.0.0.1:1 --default-network blue --log-level debug"
    assert CliRunner().invoke(root, f"daemon {directories} {more}").exit_code == 3
    assert CliRunner().invoke(root, f"down {directories}").exit_code == 4
    up, down = seen
    for config in seen:
        assert (config.state_dir, config.run_dir, config.sandbox_dir, config.store) == ("/s", "/r", "/b", "memory:")
    assert up.hosts == ("unix:///a", "tcp://127.0.0.1:1")
    assert (up.default_network, up.log_level, down.log_level) == ("blue", "debug", "info")


def test_network_ls_has_the_2015_columns(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer(
        "GET", "/networks?verbose=true", [NETWORKS[0], {**NETWORKS[1], "subnets": ["10.9.0.0/24", "fd00::/64"]}]
    )
    assert sandnet("network", "ls").stdout == (
        "NETWORK ID    NAME  TYPE    SUBNETS\n"
        "8e4e55c6863e  none  null\n"
        "32fbf63200e2  foo   bridge  10.9.0.0/24,fd00::/64\n"
    )


def test_empty_network_ls_prints_only_the_headings(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/networks?verbose=true", [])
    assert sandnet("network", "ls").stdout == "NETWORK ID  NAME  TYPE  SUBNETS\n"
    assert sandnet("network", "ls", "-q").stdout == ""


def test_network_ls_quiet_prints_only_ids(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/networks?verbose=true", NETWORKS)
    assert sandnet("network", "ls", "-q").stdout.split() == ["8e4e55c6863e", "32fbf63200e2"]
    assert sandnet("network", "ls", "-q", "--no-trunc").stdout.split()[1] == FOO


def test_network_ls_json_prints_the_raw_response(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/networks?verbose=true", [{**NETWORKS[0], "a_later_key": 1}])
    assert json.loads(sandnet("network", "ls", "--json").stdout) == [{**NETWORKS[0], "a_later_key": 1}]


def test_network_create_sends_options_and_prints_the_id(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("POST", "/networks", FOO)
    result = sandnet(
        "network create -d bridge --subnet 10.9.0.0/24 --mtu 1400 --no-icc --internal",
        "--subnet-ipv6 fd00::/64 -o EnableIPMasquerade=false foo",
    )
    assert (result.exit_code, result.stdout) == (0, FOO + "\n")
    assert stub.requests[0].body == {
        "name": "foo",
        "network_type": "bridge",
        "options": {
            "subnet": "10.9.0.0/24",
            "subnet_ipv6": "fd00::/64",
            "ipv6": True,
            "mtu": 1400,
            "internal": True,
            "icc": False,
            "com.docker.network.generic": {"EnableIPMasquerade": "false"},
        },
    }


def test_refused_command_prints_message_and_hint_on_stderr(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer(
        "POST", "/networks", {"message": "the name foo is taken", "code": "name_taken", "hint": "pick one"}, 403
    )
    result = sandnet("network", "create", "foo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "sandnet: the name foo is taken\n  pick one\n"


def test_delete_continues_after_one_failure_and_exits_1(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("DELETE", "/networks/a")
    stub.answer("DELETE", "/networks/c")
    result = sandnet("network", "rm", "a", "b", "c")
    assert stub.asked() == [("DELETE", "/networks/a"), ("DELETE", "/networks/b"), ("DELETE", "/networks/c")]
    assert result.exit_code == 1
    assert "/networks/b" in result.stderr


def test_network_inspect_shows_addresses_and_endpoints(stub: Stub, sandnet: Sandnet) -> None:
    endpoint = {key: VERBOSE[key] for key in ("id", "name", "network", "address", "port_mapping")}
    verbose = {
        "name": "foo",
        "id": FOO,
        "type": "bridge",
        "endpoints": [endpoint],
        "driver": "bridge",
        "scope": "local",
        "subnets": ["172.18.0.0/24"],
        "gateways": ["172.18.0.1"],
        "internal": False,
        "options": {"icc": False},
        "created": "2026-01-02T03:04:05Z",
    }
    stub.answer("GET", "/networks/foo?verbose=true", verbose)
    assert sandnet("network", "info", "foo").stdout == (
        "Name:     foo\n"
        f"Id:       {FOO}\n"
        "Driver:   bridge\n"
        "Scope:    local\n"
        "Subnets:  172.18.0.0/24\n"
        "Gateways: 172.18.0.1\n"
        "Options:  icc=false\n"
        "Created:  2026-01-02 03:04:05+00:00\n"
        "Endpoints:\n"
        "  ENDPOINT ID   NAME  ADDRESS        PORTS\n"
        "  0aee0899e6c5  bar   172.18.0.2/24  0.0.0.0:8080:80/tcp\n"
    )
    assert json.loads(sandnet("network", "info", "--json", "foo").stdout) == verbose


def test_publish_sends_ports_and_prints_the_id(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("POST", "/services", BAR)
    result = sandnet(
        "service publish -p 127.0.0.1:8000-8010:80 -p [::]:53:53/udp --expose 9/sctp --ip 10.9.0.7",
        "--ip6 fd00::7 --mac 02:42:0a:09:00:07 --label a=b=c --alias www --alias w --affinity client my.svc.foo",
    )
    assert (result.exit_code, result.stdout) == (0, BAR + "\n")
    assert stub.requests[0].body == {
        "name": "my.svc",
        "network_name": "foo",
        "exposed_ports": [{"proto": 132, "port": 9}],
        "port_mapping": [
            {"proto": 6, "port": 80, "host_ip": "127.0.0.1", "host_port": 8000, "host_port_end": 8010},
            {"proto": 17, "port": 53, "host_ip": "::", "host_port": 53},
        ],
        "address": "10.9.0.7",
        "address_ipv6": "fd00::7",
        "mac": "02:42:0a:09:00:07",
        "labels": {"a": "b=c"},
        "aliases": ["www", "w"],
        "affinity": "client",
    }


def test_publish_without_network_leaves_the_choice_to_the_daemon(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("POST", "/services", BAR)
    assert sandnet("service", "publish", "bar").exit_code == 0
    assert stub.requests[0].body == {"name": "bar"}


def test_service_ls_begins_with_the_2015_columns(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?verbose=true", [VERBOSE, {**SERVICE, "name": "/idle", "backends": []}])
    assert sandnet("service", "ls").stdout == (
        "SERVICE ID    NAME   NETWORK  CONTAINER     ADDRESS        PORTS                STATE\n"
        "0aee0899e6c5  bar    foo      98c5241f9475  172.18.0.2/24  0.0.0.0:8080:80/tcp  ready\n"
        "0aee0899e6c5  /idle  foo                                                        no backends\n"
    )
    assert BOX in sandnet("service", "ls", "--no-trunc").stdout


def test_service_ls_filters_by_network(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?network=foo&verbose=true", [])
    assert (
        sandnet("service", "ls", "--network", "foo").stdout
        == "SERVICE ID  NAME  NETWORK  CONTAINER  ADDRESS  PORTS  STATE\n"
    )


def test_service_inspect_shows_ports_and_backends(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/networks/foo/endpoints?name=bar", [SERVICE])
    stub.answer("GET", f"/services/{BAR}?verbose=true", VERBOSE)
    text = sandnet("service", "info", "bar.foo").stdout
    assert "Exposed ports: 53/udp\n" in text
    assert "Bound ports:   0.0.0.0:8080:80/tcp\n" in text
    assert not {"IPv6", "Probe", "Labels", "Holder"} & set(text.replace(":", " ").split())
    assert text.endswith(
        "Backends:\n"
        "  CONTAINER     INTERFACE  ADDRESS        STATE  WEIGHT  SANDBOX\n"
        f"  98c5241f9475  eth0       172.18.0.2/24  ready  1       {KEY}\n"
    )


def test_service_inspect_shows_address_state_and_weight(stub: Stub, sandnet: Sandnet) -> None:
    plug = {"sandbox_key": "/n/b", "interface": "eth0"}
    backends = [
        {**plug, "id": "a", "address": "10.9.0.2/24", "state": "drained", "weight": 1, "holder": True},
        {**plug, "id": "b", "address": "10.9.0.3/24", "address_ipv6": "fd00::3/64", "state": "failing", "weight": 100},
    ]
    probe = {"kind": "http", "port": 80, "path": "/up", "interval": 5.0, "timeout": 0.5}
    balanced = {"aliases": ["www", "shop"], "affinity": "client", "probe": probe, "labels": {"tier": "front"}}
    stub.answer("GET", "/networks/foo/endpoints?name=bar", [SERVICE])
    stub.answer("GET", f"/services/{BAR}?verbose=true", {**VERBOSE, **balanced, "backends": backends})
    text = sandnet("service", "info", "bar.foo").stdout
    assert "Aliases:       www, shop\n" in text
    assert "Affinity:      client\n" in text
    assert "Probe:         http:80/up@5, timeout 0.5 s\n" in text
    assert "Labels:        tier=front\n" in text
    assert "Holder:        a\n" in text
    assert text.endswith(
        "  CONTAINER  INTERFACE  ADDRESS                  STATE    WEIGHT  SANDBOX\n"
        "  a          eth0       10.9.0.2/24              drained  1       /n/b\n"
        "  b          eth0       10.9.0.3/24, fd00::3/64  failing  100     /n/b\n"
    )


def test_unpublish_by_bare_name_takes_the_only_match(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("DELETE", f"/services/{BAR}")
    assert sandnet("service", "unpublish", "bar").exit_code == 0
    assert stub.asked()[-1] == ("DELETE", f"/services/{BAR}")


def test_unpublish_by_shared_name_prefers_the_default_network(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE, {"name": "bar", "id": "1" * 64, "network": "bridge"}])
    stub.answer("GET", "/networks?name=", [{"name": "bridge", "id": "2" * 64, "type": "bridge", "endpoints": []}])
    stub.answer("DELETE", f"/services/{'1' * 64}")
    assert sandnet("service", "unpublish", "bar").exit_code == 0


def test_unpublish_by_ambiguous_name_lists_the_candidates(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE, {"name": "bar", "id": "1" * 64, "network": "blue"}])
    stub.answer("GET", "/networks?name=", [])
    result = sandnet("service", "unpublish", "bar")
    assert result.exit_code == 1
    assert "bar.foo, bar.blue" in result.stderr
    assert all(method == "GET" for method, _ in stub.asked())


def test_unpublish_takes_an_unmatched_name_as_an_id(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=0aee", [])
    stub.answer("GET", "/services/0aee", SERVICE)
    stub.answer("DELETE", f"/services/{BAR}")
    assert sandnet("service", "unpublish", "0aee").exit_code == 0


def test_unpublish_of_an_unknown_slashed_name_touches_no_other(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=%2Fbar", [])
    result = sandnet("service", "unpublish", "/bar")
    assert result.exit_code == 1
    assert "no such service: /bar" in result.stderr
    assert len(stub.requests) == 1


def test_attach_sends_join_options_and_prints_the_key(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("POST", f"/services/{BAR}/backend", KEY)
    result = sandnet(
        "service attach --hostname h --domain d.org --dns 10.0.0.1 --dns ::1 --add-host db:fd00::3",
        "--pid 4711 --gateway-priority -3 --hosts-path /h --resolv-conf-path /r",
        f"--weight 7 --alias me {BOX} bar",
    )
    assert (result.exit_code, result.stdout) == (0, KEY + "\n")
    assert stub.requests[-1].body == {
        "container_id": BOX,
        "host_name": "h",
        "domain_name": "d.org",
        "hosts_path": "/h",
        "resolv_conf_path": "/r",
        "dns": ["10.0.0.1", "::1"],
        "extra_hosts": [{"name": "db", "address": "fd00::3"}],
        "gateway_priority": -3,
        "aliases": ["me"],
        "weight": 7,
        "pid": 4711,
    }


def test_attach_with_netns_and_pid_is_a_usage_error(stub: Stub, sandnet: Sandnet) -> None:
    assert sandnet("service", "attach", "--netns", "/n", "--pid", "1", "c", "bar").exit_code == 2
    assert stub.requests == []


def test_detach_names_service_and_container(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("DELETE", f"/services/{BAR}/backend/{BOX}")
    assert sandnet("service", "detach", BOX, "bar").exit_code == 0


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (("drain", BOX, "bar"), {"state": "drained"}),
        (("undrain", BOX, "bar"), {"state": "active"}),
        (("weight", BOX, "bar", "10"), {"weight": 10}),
    ],
)
def test_backend_update_sends_only_the_changed_fields(
    stub: Stub, sandnet: Sandnet, words: tuple[str, ...], change: object
) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("PATCH", f"/services/{BAR}/backend/{BOX}")
    result = sandnet("service", *words)
    assert (result.exit_code, result.stdout) == (0, "")
    assert stub.requests[-1].body == change


def test_endpoint_commands_use_the_urls_of_their_network(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("POST", "/networks/foo/endpoints", BAR)
    stub.answer("GET", "/networks/foo/endpoints?name=bar", [SERVICE])
    stub.answer("POST", f"/networks/foo/endpoints/{BAR}/containers", KEY)
    stub.answer("DELETE", f"/networks/foo/endpoints/{BAR}/containers/c")
    stub.answer("DELETE", f"/networks/foo/endpoints/{BAR}")
    stub.answer("GET", "/networks/foo/endpoints?verbose=true", [VERBOSE])
    stub.answer("GET", f"/networks/foo/endpoints/{BAR}?verbose=true", VERBOSE)
    assert sandnet("endpoint", "create", "bar.foo").stdout == BAR + "\n"
    assert sandnet("endpoint", "join", "c", "bar.foo").stdout == KEY + "\n"
    assert sandnet("endpoint", "ls", "foo").stdout.startswith(
        "ENDPOINT ID   NAME  NETWORK  CONTAINER     ADDRESS        PORTS                STATE\n0aee0899e6c5  bar"
    )
    assert "Container:\n" in sandnet("endpoint", "info", "bar.foo").stdout
    assert sandnet("endpoint", "leave", "c", "bar.foo").exit_code == 0
    assert sandnet("endpoint", "rm", "bar.foo").exit_code == 0


def test_sandbox_ls_and_inspect_show_endpoints_and_files(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/sandboxes?verbose=true", [SANDBOX])
    stub.answer("GET", f"/sandboxes/{BOX}?verbose=true", SANDBOX)
    assert sandnet("sandbox", "ls").stdout == (f"CONTAINER     ENDPOINTS  SANDBOX\n98c5241f9475  bar.foo    {KEY}\n")
    text = sandnet("sandbox", "info", BOX).stdout
    assert "Hosts file: /run/sandnet/sandboxes/x/hosts\n" in text
    assert "  eth0       172.18.0.2/24                bar       foo\n" in text


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nonsense",
        "network",
        "network create",
        "network create --mtu 67 foo",
        "network create -o novalue foo",
        "network rm",
        "service publish -p x bar",
        "service publish bar.",
        "service publish",
        "service attach c",
        "service attach --weight 0 c bar",
        "service attach --weight 101 c bar",
        "service publish --affinity random bar",
        "service drain c",
        "service weight c bar",
        "service weight c bar 101",
        "events --since -1",
        "events now",
        "dns web",
        "dns --from c",
        "endpoint create bar",
        "sandbox exec c",
        "sandbox exec c --",
        "run",
        "completion tcsh",
    ],
)
def test_usage_error_exits_2_without_any_request(stub: Stub, sandnet: Sandnet, words: str) -> None:
    result = sandnet(words)
    assert result.exit_code == 2
    assert "Usage: sandnet" in result.stderr
    assert stub.requests == []


def test_unpublish_continues_after_a_malformed_reference(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("DELETE", f"/services/{BAR}")
    assert sandnet("service", "unpublish", "bad.", "bar").exit_code == 1
    assert stub.asked()[-1] == ("DELETE", f"/services/{BAR}")


def test_environment_selects_the_daemon_without_a_host_option(stub: Stub) -> None:
    stub.answer("GET", "/networks?verbose=true", NETWORKS)
    result = CliRunner().invoke(root, ["network", "ls"], env={"SANDNET_HOST": stub.url})
    assert result.exit_code == 0


def test_malformed_host_option_is_an_error() -> None:
    result = CliRunner().invoke(root, ["-H", "ftp://x", "network", "ls"])
    assert result.exit_code == 1
    assert "invalid daemon address" in result.stderr


def test_version_without_a_daemon_prints_the_client_version(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["-H", f"unix://{tmp_path}/absent", "version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("client  ")
    assert "daemon  none: no daemon listens" in result.stdout


def test_version_with_a_daemon_prints_both_versions(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/version", {"version": "9.9", "api_version": "1.20", "min_api_version": "1.19"})
    assert "daemon  9.9 (interface 1.19 to 1.20)\n" in sandnet("version").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_sandnet(shell: str) -> None:
    result = CliRunner().invoke(root, ["completion", shell], prog_name="sandnet")
    assert result.exit_code == 0
    assert "_SANDNET_COMPLETE" in result.stdout
    assert f"{shell}_complete" in result.stdout


def completions(url: str, *words: str, incomplete: str = "") -> list[str]:
    complete = ShellComplete(root, {}, "sandnet", "_SANDNET_COMPLETE")
    return [item.value for item in complete.get_completions(["-H", url, *words], incomplete)]


def test_completion_offers_names_from_the_daemon(stub: Stub) -> None:
    stub.answer("GET", "/networks", NETWORKS)
    stub.answer("GET", "/services", [SERVICE])
    stub.answer("GET", "/sandboxes", [SANDBOX])
    assert completions(stub.url, "network", "rm", incomplete="f") == ["foo"]
    assert completions(stub.url, "service", "info", incomplete="b") == ["bar.foo"]
    assert completions(stub.url, "sandbox", "exec") == [BOX]
    assert completions(stub.url, incomplete="net") == ["network"]


def test_completion_without_a_daemon_offers_nothing(tmp_path: Path) -> None:
    assert completions(f"unix://{tmp_path}/absent", "network", "rm") == []


@pytest.mark.parametrize("flag", ["-f", "--force"])
def test_force_option_is_sent_on_removal(stub: Stub, sandnet: Sandnet, flag: str) -> None:
    stub.answer("DELETE", "/networks/blue?force=true")
    assert sandnet("network", "rm", flag, "blue").exit_code == 0
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("DELETE", f"/services/{BAR}?force=true")
    assert sandnet("service", "unpublish", flag, "bar").exit_code == 0
    stub.answer("DELETE", f"/networks/foo/endpoints/{BAR}?force=true")
    assert sandnet("endpoint", "rm", flag, "bar").exit_code == 0


def test_attach_sends_the_watched_process(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("POST", f"/services/{BAR}/backend", "/key")
    assert sandnet("service", "attach", "--watch-pid", "7", "c1", "bar").exit_code == 0
    assert stub.requests[-1].body == {"container_id": "c1", "watch_pid": 7}
    assert sandnet("service", "attach", "--auto-remove", "c1", "bar").exit_code == 0
    assert stub.requests[-1].body == {"container_id": "c1", "auto_remove": True}
    assert sandnet("service", "attach", "--watch-pid", "7", "--no-auto-remove", "c1", "bar").exit_code == 2


def test_listings_shorten_only_machine_generated_ids(stub: Stub, sandnet: Sandnet) -> None:
    ids = [BOX, "my-database-replica-1", "a" * 63, "A" * 64, "f" * 65, "12ab"]
    stub.answer("GET", "/sandboxes?verbose=true", [{**SANDBOX, "id": each} for each in ids])
    assert sandnet("sandbox", "ls", "-q").stdout.split() == ["98c5241f9475", *ids[1:]]
    backends = [{"id": each, "sandbox_key": KEY} for each in ids]
    stub.answer("GET", "/services?verbose=true", [{**VERBOSE, "backends": backends}])
    assert f" 98c5241f9475,{','.join(ids[1:])} " in sandnet("service", "ls").stdout


@pytest.mark.parametrize(
    ("given", "there", "meant"),
    [
        ("98c5241f9475", [BOX], BOX),
        ("98c5241f9475", [], "98c5241f9475"),
        ("98c5241f9475", [BOX, "98c5241f9475"], "98c5241f9475"),
        ("98c5241f9475", ["98c5241f9475-mine"], "98c5241f9475"),
        ("web", ["web-1"], "web"),
    ],
)
def test_attach_accepts_a_container_id_shortened_by_a_table(
    stub: Stub, sandnet: Sandnet, given: str, there: list[str], meant: str
) -> None:
    stub.answer("GET", "/sandboxes", [{**SANDBOX, "id": each} for each in there])
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("POST", f"/services/{BAR}/backend", KEY)
    assert sandnet("service", "attach", given, "bar").exit_code == 0
    body = stub.requests[-1].body
    assert isinstance(body, dict)
    assert body["container_id"] == meant


def test_attach_by_an_ambiguous_container_prefix_is_refused(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/sandboxes", [{**SANDBOX, "id": BOX}, {**SANDBOX, "id": BOX[:12] + "0" * 52}])
    result = sandnet("service", "attach", BOX[:12], "bar")
    assert result.exit_code == 1
    assert "means more than one container" in result.stderr
    assert stub.requests[-1].method == "GET"


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        ("service info x.foo", "service"),
        ("endpoint info x.foo", "endpoint"),
        ("service info x", "service"),
        ("endpoint info x", "endpoint"),
    ],
)
def test_not_found_message_uses_the_terms_of_the_user(stub: Stub, sandnet: Sandnet, words: str, noun: str) -> None:
    stub.answer("GET", "/networks/foo/endpoints?name=x", [])
    stub.answer("GET", "/services?name=x", [])
    missing = {"message": "no such endpoint: x", "code": "endpoint_not_found"}
    stub.answer("GET", "/networks/foo/endpoints/x", missing, 404)
    stub.answer("GET", "/services/x", {"message": "no such service: x", "code": "service_not_found"}, 404)
    assert sandnet(words).stderr == f"sandnet: no such {noun}: x\n"


def test_rest_client_hint_is_shown_as_the_cli_option(stub: Stub, sandnet: Sandnet) -> None:
    body = {"message": "blue is in use", "hint": "or all with it: --force, ?force=true", "code": "in_use"}
    stub.answer("DELETE", "/networks/blue", body, 403)
    assert sandnet("network", "rm", "blue").stderr == "sandnet: blue is in use\n  or all with it: --force\n"


def test_port_command_prints_the_published_host_ports(stub: Stub, sandnet: Sandnet) -> None:
    ports = [
        {"proto": 6, "port": 80, "host_ip": "0.0.0.0", "host_port": 8080},
        {"proto": 17, "port": 53, "host_ip": "::1", "host_port": 5353},
    ]
    stub.answer("GET", "/services?name=bar", [SERVICE])
    stub.answer("GET", f"/services/{BAR}?verbose=true", {**VERBOSE, "port_mapping": ports})
    assert sandnet("service", "port", "bar").stdout == "80/tcp -> 0.0.0.0:8080\n53/udp -> [::1]:5353\n"
    assert sandnet("service", "port", "bar", "53/udp").stdout == "[::1]:5353\n"
    missing = sandnet("service", "port", "bar", "81")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no such published port: 81/tcp of bar" in missing.stderr


def test_prune_removes_only_empty_networks(stub: Stub, sandnet: Sandnet) -> None:
    empty = {"name": "empty", "id": "e" * 64, "type": "bridge", "endpoints": [], "labels": {"tier": "test"}}
    used = {**empty, "name": "used", "id": "d" * 64, "endpoints": [SERVICE]}
    other = {**empty, "name": "other", "id": "c" * 64, "labels": {}}
    stub.answer("GET", "/networks?verbose=true", [NETWORKS[0], used, empty, other])
    assert sandnet("network", "prune", "--dry-run").stdout == "empty\nother\n"
    assert {method for method, _ in stub.asked()} == {"GET"}
    stub.answer("DELETE", f"/networks/{'e' * 64}")
    assert sandnet("network", "prune", "--filter", "label=tier").stdout == "empty\n"
    stub.answer("DELETE", f"/networks/{'c' * 64}", {"message": "in use", "code": "in_use"}, 403)
    result = sandnet("network", "prune")
    assert (result.exit_code, result.stdout) == (1, "empty\n")


def test_network_labels_are_sent_and_shown(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("POST", "/networks", FOO)
    assert sandnet("network", "create", "--label", "tier=test", "--label", "a=b=c", "foo").exit_code == 0
    assert stub.requests[0].body == {
        "name": "foo",
        "network_type": "",
        "options": {},
        "labels": {"tier": "test", "a": "b=c"},
    }
    stub.answer("GET", "/networks/foo?verbose=true", {**NETWORKS[1], "labels": {"tier": "test"}})
    assert "tier=test" in sandnet("network", "info", "foo").stdout


@pytest.mark.parametrize(("health", "problems", "code"), [("ok", [], 0), ("degraded", ["the store is away"], 1)])
def test_status_prints_problems_and_counts(
    stub: Stub, sandnet: Sandnet, health: str, problems: list[str], code: int
) -> None:
    drivers = [{"name": "bridge", "available": False, "reason": "no nftables"}]
    pool = dict.fromkeys(("ready", "target", "limit", "handed_out", "misses", "discarded", "failures", "restarts"), 3)
    pool_status = {"prepared_sandboxes": {**pool, "problem": ""}}
    stub.answer(
        "GET", "/healthz?verbose=true", {**pool_status, "status": health, "problems": problems, "drivers": drivers}
    )
    stub.answer("GET", "/version", {"version": "1.2", "api_version": "1", "min_api_version": "1"})
    stub.answer("GET", "/services?verbose=true", [VERBOSE])
    stub.answer("GET", "/networks", NETWORKS)
    stub.answer("GET", "/sandboxes", [SANDBOX])
    result = sandnet("status")
    assert result.exit_code == code
    words = result.stdout.replace(":", " ").split()
    assert {health, "1.2", "nftables"} <= set(words)
    assert [words[words.index(name) + 1] for name in ("Networks", "Services", "Backends", "Sandboxes")] == list("2111")
    assert "3 of 3 ready, 3 missed" in result.stdout
    assert all(problem in result.stdout for problem in problems)


def test_doctor_names_what_the_host_lacks(stub: Stub, sandnet: Sandnet) -> None:
    lacking = "encrypted networks need the program wg: apt-get install wireguard-tools wireguard-go"
    drivers = [
        {"name": "null", "available": True, "reason": ""},
        {"name": "bridge", "available": False, "reason": "no nftables"},
        {"name": "overlay", "available": True, "reason": lacking},
    ]
    stub.answer("POST", "/reconcile", {"drift": []})
    stub.answer("GET", "/healthz?verbose=true", {"status": "ok", "problems": [], "drivers": drivers})
    result = sandnet("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["nothing differs: everything is as recorded", f"overlay: {lacking}"]


@pytest.mark.parametrize(
    ("encryption", "shown"), [(True, "yes"), (False, "no: on that host, sandnet doctor names what is missing")]
)
def test_node_info_shows_whether_the_host_encrypts(stub: Stub, sandnet: Sandnet, encryption: bool, shown: str) -> None:
    node = {"name": "h2", "this": False, "state": "alive", "underlay": "10.0.0.2", "encryption": encryption}
    stub.answer("GET", "/nodes/h2", {**node, "release": "1", "attachments": 0, "endpoints": 0})
    lines = dict(line.split(":", 1) for line in sandnet("node", "info", "h2").stdout.splitlines())
    assert lines["Encryption"].strip() == shown


def test_status_without_a_daemon_exits_1(tmp_path: Path) -> None:
    assert CliRunner().invoke(root, ["-H", f"unix://{tmp_path}/absent", "status"]).exit_code == 1
