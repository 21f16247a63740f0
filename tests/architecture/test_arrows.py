"""The arrows of the house: who may import whom (docs/design.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from sandnet.firewall import antispoofing_rules, inet_table, overlay_rules
from sandnet.firewall.balancing import service_rules
from tests.architecture.source import PACKAGE, REPOSITORY, dotted, for_each, imports, label, modules, nodes, room, text

FLOOR = {
    **dict.fromkeys(
        ("errors", "escaping", "logs", "model", "passed_descriptors", "prerequisites", "threads", "wire"), 0
    ),
    **dict.fromkeys(
        (
            "stores",
            "kernel",
            "dns",
            "client",
            "transport",
            "http_exchange",
            "library",
            "pytest_plugin",
            "cli",
            "cni",
            "netavark",
        ),
        1,
    ),
    **dict.fromkeys(("ipam", "firewall"), 2),
    **dict.fromkeys(("drivers",), 3),
    **dict.fromkeys(("core",), 4),
    **dict.fromkeys(("api",), 6),
    **dict.fromkeys(("lab", "daemon", "resolver", "preparer", "composition", "config", "serving", "statefile"), 7),
}
SUB_PACKAGES = {
    "core": (
        {"state"},
        {"cluster"},
        {"names", "reachability"},
        {"runtime"},
        {"lifecycle"},
        {"engine"},
        {"monitoring", "reconcile", "replication"},
        {"recovery"},
        {"controller"},
    ),
    "kernel": ({""}, {"netlink"}, {"nftables"}, {"linux"}),
    "kernel.fake": ({""}, {"fake"}),
    "api": (
        {"errors", "parsing", "network_options", "plugin_options", "subnet_options", "metrics"},
        {"middleware"},
        {"libnetwork", "plugin", "cni", "engine"},
        {"app"},
    ),
    "cni": ({"exchange", "replies"}, {""}),
    "netavark": ({"cni_calls"}, {""}),
    "firewall": ({"base"}, {"ruleset"}, {"balancing"}, {""}),
    "dns": ({""}, {"server"}),
    "cli": ({""}, {"execution", "project"}, {"commands", "hosts"}),
    "lab": (
        {"lab_spec", "lab_messages", "environment", "entry", "etcd_member", "delay_line"},
        {"child_processes", "host_init", "lab_directory"},
        {"lab_host", "switch", "lab_client"},
        {"lab"},
        {"supervisor"},
        {"startup"},
    ),
}
"""What each room is divided into, the lowest first; the empty name stands for the modules that no other set names."""
SAME_FLOOR = {
    ("model", "errors"): "a record's check says what is wrong",
    ("logs", "escaping"): "what is logged was written by others",
    ("wire", "errors"): "a message that cannot be read is an error",
    ("cli", "client"): "a command is a call",
    ("netavark", "cni"): "the daemon sees it as a runtime that speaks CNI",
    ("cli", "transport"): "which goes over TLS",
    ("client", "transport"): "on the way to the daemon",
    ("client", "http_exchange"): "in HTTP",
    ("library", "client"): "its objects make requests",
    ("library", "transport"): "which goes over TLS",
    ("pytest_plugin", "library"): "its fixtures",
    ("cli", "library"): "how ports are written, and how a membership is undone",
    ("composition", "config"): "what is put together depends on it",
    ("serving", "config"): "which directories, which files",
    ("daemon", "config"): "its configuration",
    ("daemon", "composition"): "what it serves",
    ("daemon", "serving"): "alone, in its directories, on its sockets",
    ("statefile", "config"): "whose",
    ("statefile", "composition"): "where it is",
    ("statefile", "serving"): "while no daemon runs",
    ("lab", "serving"): "its directory belongs to root alone, as the daemon's do",
}
UPWARD = {
    ("cli/commands/daemon.py", "daemon"): "the two commands that are the server; inside their functions",
    ("cli/commands/daemon.py", "config"): "the same",
    ("cli/commands/state.py", "statefile"): "two that read and write the server's own file; inside their functions",
    ("cli/commands/state.py", "config"): "the same",
    ("cli/commands/lab.py", "lab"): "the command that is a lab's first process; inside its functions",
}
LEVELS = {
    7: "the two processes, and what they are made of",
    6: "HTTP",
    4: "operations and their order",
    3: "kinds of network",
    2: "the host's packet filter; arithmetic of addresses",
    1: "the machine, the stores, names; the client side",
    0: "used by all",
}
"""The title of each level in the diagram of docs/design.md."""
DESIGN = (REPOSITORY / "docs" / "design.md").read_text()
LIGHT = {"client", "transport", "http_exchange", "library", "cli", "cni", "netavark"}
LIGHT_IMPORTS = {
    *(
        "errors",
        "escaping",
        "prerequisites",
        "wire",
        "client",
        "transport",
        "http_exchange",
        "library",
        "cli",
        "cni",
        "netavark",
    ),
}
LIGHT_PACKAGES = {"click", "httptools", "msgspec", "yaml"}
DRIVERS = {"null", "host", "bridge", "overlay", "macvlan", "remote"}
"""What else is in ``drivers/`` is shared ground, which knows no driver."""
MACHINE = {"ctypes", "subprocess"}
MACHINE_EXCEPTIONS = {
    ("cli/execution/syscalls.py", "ctypes"): "setns, in a command that must not load the kernel room",
    ("library/programs.py", "subprocess"): "starts a command in a sandbox for its caller",
    ("library/connection.py", "subprocess"): "names the result of that",
    ("library/async_connection.py", "subprocess"): "the same for coroutines",
    ("lab/switch.py", "subprocess"): "ip and nft, on networks that no daemon manages",
    ("lab/host_init.py", "subprocess"): "the same on the host's side of its link",
    ("lab/lab_host.py", "subprocess"): "names the failure of that",
}
HTTP = {"litestar", "uvicorn", "starlette"}

every_module = for_each(modules())


def inside(path: Path) -> str:
    """The file's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def ours(path: Path) -> set[str]:
    """The rooms a file imports from."""
    return {room(name) for name in imports(path) if name.startswith("sandnet.")} & set(FLOOR)


def others(path: Path) -> set[str]:
    """The top-level packages a file imports, our own left out."""
    return {name.partition(".")[0] for name in imports(path)} - {"sandnet"}


@every_module
def test_every_package_of_modules_has_a_layer(path: Path) -> None:
    assert room(dotted(path)) in {"", *FLOOR}, "a new room needs a floor here and in docs/design.md"


@every_module
def test_modules_import_only_from_lower_layers(path: Path) -> None:
    here = room(dotted(path))
    upward = {
        there
        for there in ours(path)
        if here and there != here and FLOOR[there] >= FLOOR[here] and (here, there) not in SAME_FLOOR
    }
    allowed = {there for where, there in UPWARD if where == inside(path)}
    assert upward <= allowed, f"{here} may not import {upward - allowed}"


def level(room_name: str, part: str) -> int:
    """Return how high a module or sub-package stands in its room."""
    sets = SUB_PACKAGES[room_name]
    part = part if any(part in each for each in sets) else ""
    return next(height for height, each in enumerate(sets) if part in each)


def crossings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (room, importing part, imported part) for each import between parts of one room."""
    here = dotted(path).split(".")
    for name in imports(path):
        there = name.split(".")
        if len(here) > 2 and len(there) > 2 and here[:2] == there[:2] and here[2] != there[2]:
            yield ("kernel.fake" if here[1:3] == ["kernel", "fake"] else here[1]), here[2], there[2]


@every_module
def test_sub_package_imports_only_from_those_below(path: Path) -> None:
    wrong = [
        (part, other)
        for room_name, part, other in crossings(path)
        if room_name in SUB_PACKAGES and level(room_name, other) > level(room_name, part)
    ]
    assert not wrong


def test_monitoring_and_reconcile_do_not_import_each_other() -> None:
    pair = {"monitoring", "reconcile"}
    assert not [path for path in modules() for _, part, other in crossings(path) if {part, other} == pair]


def test_fake_kernel_is_imported_by_itself_only() -> None:
    users = {label(path) for path in modules() if any(name.startswith("sandnet.kernel.fake") for name in imports(path))}
    assert all("kernel/fake/" in user for user in users)


@every_module
def test_drivers_do_not_import_other_drivers(path: Path) -> None:
    mine = dotted(path).split(".")[2:3]
    if room(dotted(path)) == "drivers" and mine:
        named = {name.split(".")[2] for name in imports(path) if name.startswith("sandnet.drivers.")}
        assert named & DRIVERS <= {*mine}


@every_module
def test_only_kernel_modules_import_what_touches_the_machine(
    path: Path,
) -> None:
    if room(dotted(path)) == "kernel":
        return
    found = {name for name in others(path) & MACHINE if (inside(path), name) not in MACHINE_EXCEPTIONS}
    assert not found, f"only kernel/ may use {found}"
    assert not re.search(r"\bAF_(NETLINK|PACKET)\b", text(path))


@every_module
def test_only_api_and_server_import_http(path: Path) -> None:
    if room(dotted(path)) not in {"api", "serving"}:
        assert not others(path) & HTTP


@every_module
def test_importing_a_command_stays_light(path: Path) -> None:
    if room(dotted(path)) in LIGHT:
        assert ours(path) - {there for where, there in UPWARD if where == inside(path)} <= LIGHT_IMPORTS
        assert others(path) - set(sys.stdlib_module_names) <= LIGHT_PACKAGES


def rooms_diagram() -> str:
    """Return the diagram of the rooms, made from the table of arrows."""
    lines = ["flowchart TD"]
    for floor, title in LEVELS.items():
        rooms = sorted(name for name, level in FLOOR.items() if level == floor)
        lines += [f'    subgraph L{floor}["{floor}: {title}"]', f"        {' & '.join(rooms)}", "    end"]
    return "\n".join([*lines, f"    {' --> '.join(f'L{floor}' for floor in LEVELS)}", ""])


def sub_packages(room_name: str) -> str:
    """Return the order of the named parts of a room, the lowest first."""
    return " < ".join(", ".join(sorted(part)) for part in SUB_PACKAGES[room_name] if part != {""})


def test_diagram_of_rooms_is_made_from_the_arrows() -> None:
    assert rooms_diagram() in DESIGN, f"paste it:\n{rooms_diagram()}"


def test_design_page_describes_every_room() -> None:
    rows = re.findall(r"^\|[ 0-9]*\| ((?:`\w+`(?:, )?)+) \|", DESIGN, re.MULTILINE)
    assert not FLOOR.keys() - {each for row in rows for each in re.findall(r"\w+", row)}


def test_design_page_has_the_order_of_sub_packages() -> None:
    assert f"| `core` | {sub_packages('core')} |" in DESIGN
    parts = set().union(*SUB_PACKAGES["core"]) - {"controller"}
    described = re.search(r"^\| in `core/` \| \|\n(.*?)\n\n", DESIGN, re.MULTILINE | re.DOTALL)
    assert described
    assert set(re.findall(r"^\| `(\w+)` \|", described[1], re.MULTILINE)) == parts


def test_packet_diagram_has_every_base_chain() -> None:
    section = DESIGN[DESIGN.index("## The ruleset") :]
    diagram = section[: section.index("| set or map |")]
    rules = f"{inet_table.CHAINS}{overlay_rules.CHAINS}{antispoofing_rules.ruleset()}{service_rules.bridge_ruleset()}"
    chains = set(re.findall(r"chain (?:bridge sandnet )?(\w+) \{(?:\n *#[^\n]*)*\s*type \w+ hook", rules))
    assert len(chains) >= 8
    assert not {chain for chain in chains if not re.search(rf"\b{chain}\b", diagram)}


def test_client_commands_do_not_load_the_daemon_code() -> None:
    """Imports inside functions count here: what is loaded is read from the running command."""
    program = (
        "import sys\n"
        "from sandnet.client import Client\n"
        "from sandnet.cli.root import root\n"
        "root.main(['-H', 'unix:///nowhere', 'network', 'ls'], standalone_mode=False)"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=False
    )
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    heavy = {name for name in loaded if name.partition(".")[0] in {*MACHINE - {"subprocess", "ctypes"}, *HTTP}}
    heavy |= {name for name in loaded if name.startswith("sandnet.") and room(name) not in LIGHT_IMPORTS}
    assert "sandnet.client" in loaded
    assert not heavy


@every_module
def test_only_commands_and_the_daemon_print(path: Path) -> None:
    if room(dotted(path)) not in {"cli", "daemon", "serving"}:
        calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints


@every_module
def test_only_one_module_of_the_cli_prints(path: Path) -> None:
    if room(dotted(path)) == "cli" and path.name != "output.py":
        calls = [ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)]
        printing = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
        assert not printing.intersection(calls)


def test_imported_packages_are_declared_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.-]", need)[0].replace("-", "_") for need in project["dependencies"]}
    plugin = PACKAGE / "pytest_plugin.py"  # pytest itself loads it
    used = (
        set().union(*(others(path) for path in modules() if path != plugin))
        - set(sys.stdlib_module_names)
        - {"__future__"}
    )
    assert used - {"yaml"} <= declared - {"pyyaml"}  # the module of PyYAML
