"""The external programs that are called, and the Debian packages in the lists of ``scripts/``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, REPOSITORY, for_each, label, nodes, text
from tests.support.programs import (
    called_by_make,
    called_by_page,
    called_by_python,
    called_by_shell,
    called_in,
    words_in,
)

PROGRAMS: Mapping[str, str] = {
    "aardvark-dns": "aardvark-dns",
    "apt": "apt-cache apt-config apt-get",
    "bash": "bash",
    "bind9-dnsutils": "dig",
    "bubblewrap": "bwrap",
    "busybox-static": "busybox",
    "conntrack": "conntrack",
    "containernetworking-plugins": "bridge portmap",
    "containerd": "containerd ctr",
    "coreutils": "basename cat chown chroot cp cut date dirname env expand expr head id install ln ls mkdir mktemp mv "
    "nice readlink realpath rm seq sleep sort stat tail tee timeout touch tr true wc",
    "crun": "crun",
    "curl": "curl",
    "dash": "sh",
    "dnsperf": "dnsperf",
    "docker-cli": "docker",
    "docker-compose": "docker-compose",
    "etcd-server": "etcd",
    "dnsmasq-base": "dnsmasq",
    "docker.io": "dockerd docker",
    "dpkg": "dpkg dpkg-deb dpkg-query",
    "dpkg-dev": "dpkg-buildpackage",
    "findutils": "find xargs",
    "gcc": "cc gcc",
    "git": "git",
    "grep": "grep",
    "iperf3": "iperf3",
    "iproute2": "bridge ip ss tc",
    "iptables": "iptables",
    "iputils-ping": "ping",
    "libc-bin": "getent",
    "lintian": "lintian",
    "make": "make",
    "man-db": "man",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount umount",
    "netavark": "netavark",
    "nftables": "nft",
    "openssl": "openssl",
    "passwd": "groupdel useradd userdel",
    "podman": "podman",
    "procps": "kill pgrep ps sysctl",
    "python3-venv": "python3",
    "qemu-system-x86": "qemu-system-x86_64",
    "runc": "runc",
    "sed": "sed",
    "shellcheck": "shellcheck",
    "sqlite3": "sqlite3",
    "systemd": "journalctl systemctl systemd-analyze systemd-sysusers",
    "systemd-container": "systemd-nspawn",
    "systemd-resolved": "resolvectl",
    "tar": "tar",
    "udhcpc": "udhcpc",
    "util-linux": "findmnt nsenter setpriv unshare",
    "wireguard-go": "wireguard-go",
    "wireguard-tools": "wg",
}
"""The programs that each package holds, of those that are called here."""
NO_PROGRAM: Mapping[str, str] = {
    "ca-certificates": "data: the certificates by which pip trusts its registry",
    "debhelper": "packaging/debian/rules calls it, by dpkg-buildpackage",
    "debian-archive-keyring": "data: the keys by which mmdebstrap trusts the archive",
    "etcd-client": "etcdctl, which docs/host-upkeep.md calls on hosts of a laboratory",
    "libc6-dev": "headers, with which gcc compiles the CNI plugin",
    "libnftables1": "library: libnftables.so.1, which the daemon loads",
    "libseccomp2": "library: libseccomp.so.2, which the resolver loads",
    "netbase": "data: /etc/protocols, in which nft looks the names of protocols up",
}
"""Packages that are listed for something else than a program."""
ON_EVERY_DEBIAN = {
    *("apt", "bash", "coreutils", "dash", "dpkg", "findutils", "grep", "libc-bin", "mount", "passwd", "sed", "tar"),
}
"""Packages of priority ``required`` and apt: the smallest tree of mmdebstrap has them."""
BEFORE_ALL = {
    "make": "without it, no target installs anything",
    "git": "makes the checkout",
}
ONLY_ON_PAGES = {"systemd-resolved": "a section of operations.md is for hosts that have it"}
OURS = {
    "sandnet": "our own command",
    "sandnet-cni": "our own CNI plugin",
    "sandnet-netavark": "our own netavark plugin",
}
EXCLUDED = {
    "tests/integration/cli/execution/test_file_view.py": "its run() reads files",
    "docs/demo.md": "its console block is the output of scripts/demo, which is read itself",
    "tests/support/programs.py": "names programs, and calls none",
    "tests/architecture/test_packages.py": "the same",
}


def listed(name: str) -> frozenset[str]:
    """Return the packages of a list in ``scripts/``."""
    lines = (REPOSITORY / "scripts" / name).read_text().splitlines()
    return frozenset(filter(None, (line.partition("#")[0].strip() for line in lines)))


RUN = listed("debian-packages.txt")
TEST = listed("debian-packages-test.txt")
E2E = listed("debian-packages-e2e.txt")
BENCH = listed("debian-packages-bench.txt")
FRESH = listed("debian-packages-fresh.txt")
DEB = listed("debian-packages-deb.txt")
RUNTIMES = listed("debian-packages-runtimes.txt")
ALLOWED = {
    "src": RUN | {"wireguard-go", "wireguard-tools", "udhcpc"},  # for some networks only; the daemon names them
    "Makefile": RUN,
    "scripts": RUN,
    "scripts/demo-runtimes": RUN | RUNTIMES,
    "scripts/fresh": RUN | FRESH,
    "scripts/deb": DEB,
    "scripts/try-package": RUN | {"man-db"},  # scripts/fresh installs it
    "scripts/try-service": RUN | {"procps", "systemd"},  # the same
    **dict.fromkeys(("tests/unit", "tests/integration", "tests/contract", "tests/architecture"), RUN | TEST),
    "tests": RUN | TEST | E2E,
    ".ci": RUN | TEST | E2E,
    "bench": RUN | TEST | E2E | BENCH,
    "docs": RUN | TEST | E2E | BENCH | ONLY_ON_PAGES.keys(),
}
"""Which packages the files of a folder, or a single file, may count on: the longest name that fits."""


RELEASE_LISTS = sorted(path.name for path in (REPOSITORY / "scripts").glob("debian-packages*-[0-9]*.txt"))
"""Lists of what only one release needs, beside the list of the same name."""


def package_of(program: str, known: Mapping[str, str], allowed: Iterable[str]) -> str:
    """Return the package that holds a program, one of ``allowed`` where several do; empty if none is known."""
    holders = [package for package, programs in known.items() if program in programs.split()]
    return next((package for package in holders if package in allowed), holders[0] if holders else "")


def faults(called: Iterable[str], allowed: frozenset[str], known: Mapping[str, str] = PROGRAMS) -> list[str]:
    """Return what is wrong with the programs that a file calls."""
    found = []
    for program in sorted(set(called) - OURS.keys()):
        package = package_of(program, known, allowed | ON_EVERY_DEBIAN)
        if not package:
            found.append(f"{program}: no package is known for it; name it in PROGRAMS")
        elif package not in allowed | ON_EVERY_DEBIAN | BEFORE_ALL.keys():
            found.append(f"{program}: {package} is in no list that this file may count on")
    return found


def unjustified(packages: Iterable[str], words: frozenset[str]) -> list[str]:
    """Return the listed packages of which no program is named anywhere, and which hold nothing else."""
    return sorted(
        package
        for package in packages
        if package not in NO_PROGRAM and not words & set(PROGRAMS.get(package, "").split())
    )


def files() -> Iterator[Path]:
    """Yield every file that can call programs."""
    yield REPOSITORY / "Makefile"
    yield from (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"))
    for folder in ("src", "tests", "scripts", "bench", ".ci"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix == ".py" or (path.is_file() and path.read_bytes().startswith(b"#!")):
                yield path


@cache
def programs(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the programs that a file calls, and the words of its strings if it is Python."""
    written = text(path)
    if path.name == "Makefile":
        return frozenset(called_by_make(written)), frozenset()
    if path.suffix == ".md":
        return frozenset(called_by_page(written)), frozenset()
    if path.suffix != ".py" and "python" not in written.partition("\n")[0]:
        return frozenset(called_by_shell(written)), frozenset()
    found = nodes(path) if path.is_relative_to(PACKAGE) else tuple(ast.walk(ast.parse(written)))
    return frozenset(called_in(found)), words_in(found)


def allowed_for(path: Path) -> frozenset[str]:
    """Return the packages that a file may count on."""
    name = label(path)
    if path.suffix == ".md":
        return ALLOWED["docs"]
    folders = [each for each in ALLOWED if name == each or name.startswith(f"{each}/")]
    return ALLOWED[max(folders, key=len)]


@cache
def all_words() -> frozenset[str]:
    """Return all words that name programs: called ones, and those behind wrappers in Python strings."""
    return frozenset().union(*(words for path in files() if label(path) not in EXCLUDED for words in programs(path)))


@for_each(files())
def test_packages_of_called_programs_are_listed(path: Path) -> None:
    if label(path) not in EXCLUDED:
        called, _ = programs(path)
        assert not faults(called, allowed_for(path))


@pytest.mark.parametrize(
    "packages",
    [RUN, TEST, E2E, BENCH, FRESH, DEB, RUNTIMES],
    ids=["run", "test", "e2e", "bench", "fresh", "deb", "runtimes"],
)
def test_listed_package_is_used(packages: frozenset[str]) -> None:
    assert not unjustified(packages, all_words())


@pytest.mark.parametrize("name", RELEASE_LISTS)
def test_list_of_one_release_adds_to_a_list_of_all(name: str) -> None:
    general = listed(f"{name.rpartition('-')[0]}.txt")
    assert listed(name).isdisjoint(general)
    assert not unjustified(listed(name), all_words())


def test_file_of_each_exception_exists() -> None:
    assert all((REPOSITORY / name).exists() for name in EXCLUDED)


def test_unknown_program_is_a_fault() -> None:
    assert faults(["ip", "frobnicate"], RUN) == ["frobnicate: no package is known for it; name it in PROGRAMS"]


def test_program_of_an_unlisted_package_is_a_fault() -> None:
    assert faults(["conntrack"], RUN | TEST) == ["conntrack: conntrack is in no list that this file may count on"]
    assert not faults(["conntrack"], RUN | TEST | E2E)


def test_listed_package_without_use_is_a_fault() -> None:
    assert unjustified(["curl", "hello", "netbase"], frozenset({"ip"})) == ["curl", "hello"]


@pytest.mark.parametrize(
    ("script", "programs"),
    [
        ("curl -s x | grep y && dig z", {"curl", "grep", "dig"}),
        ('n="$(id -u)"; m=$(stat f)', {"id", "stat"}),
        ("if ! nft list ruleset; then exec ss -l; fi", {"nft", "ss"}),
        ("A=1 sudo /usr/sbin/ip link # tar", {"ip"}),
        ("echo 'tar; sed' ./local \\\n  cut", set()),
        ("step() { printf x; }\nstep find", set()),
        ("cat <(sort f) f.txt", {"cat", "sort"}),
    ],
)
def test_programs_of_a_shell_script_are_found(script: str, programs: set[str]) -> None:
    assert set(called_by_shell(script)) == programs


def test_programs_that_python_runs_are_found() -> None:
    source = "subprocess.run(['/usr/bin/nft', 'x'])\nhost.sh('ip', 'link')\nshutil.which('dig')\nlog('curl')"
    assert set(called_by_python(source)) == {"nft", "ip", "dig"}


def test_recipes_and_shell_calls_of_a_makefile_are_found() -> None:
    source = "N ?= $(shell nproc)\nx: y\n\t@$(BIN)/python z\n\t@test -x $(BIN)/pip || sort $@\n"
    assert set(called_by_make(source)) == {"nproc", "sort"}


def test_blocks_that_are_not_run_count_too() -> None:
    page = "<!-- console: not run: why -->\n```console\n# tar x\nsed: output\n$ cut \\\n  y | wc\n```\n"
    assert set(called_by_page(page)) == {"tar", "cut", "wc"}
