"""What demonstrations share: they show commands, run them on a private host, and stop at the first broken promise."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRIVATE_HOST = Path(__file__).with_name("private-host")
DEADLINE = 60.0
"""Seconds that anything may take: a busy machine stands still for seconds."""

RESOLV_CONF = "nameserver 192.0.2.1\noptions timeout:1 attempts:1\n"
"""An address that no host has (RFC 5737): there is no internet here, and nothing should wait for it."""
SYSCTLS = ("ipv4", "ipv4/conf/all", "ipv4/conf/default", "ipv6/conf/all", "ipv6/conf/default", "bridge")


class NotAsPromisedError(Exception):
    """Something is not as promised."""


class Background(NamedTuple):
    """A command that runs in the background."""

    command: str
    process: subprocess.Popen[bytes]
    output: Path
    errors: Path

    def said(self) -> str:
        """Its output up to now."""
        return self.output.read_text()

    def lines(self) -> int:
        """How many lines that is."""
        return self.said().count("\n")

    def failures(self) -> list[str]:
        """Return what curl complained about up to now; output of sandnet beside it does not count."""
        return [line for line in self.errors.read_text().splitlines() if line.startswith("curl: ")]

    def goes_on(self, lines: int) -> None:
        """Wait until it has said that many more lines."""
        enough = self.lines() + lines
        until(lambda: self.lines() >= enough, f"{lines} more lines of {self.command}")


def chapter(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1;7m {text} \033[0m" if sys.stdout.isatty() else f"\n## {text}", flush=True)


def say(text: str) -> None:
    """Print a line for the reader, between commands."""
    print(f"\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"# {text}", flush=True)


def run(*command: str, quiet: bool = False, seconds: float = DEADLINE) -> str:
    """Show a command, run it, show its output unless it is to be quiet; the output.

    Raises:
        NotAsPromisedError: it failed.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    print(done.stderr if quiet else done.stdout + done.stderr, end="", flush=True)
    if done.returncode:
        raise NotAsPromisedError(f"{shlex.join(command)} ended with exit code {done.returncode}")
    return done.stdout


def expect(what: str, holds: bool) -> None:
    """Say that something holds.

    Raises:
        NotAsPromisedError: it does not.
    """
    if not holds:
        raise NotAsPromisedError(f"not as promised: {what}")
    print(f"ok: {what}", flush=True)


def until(holds: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Wait for something.

    Raises:
        NotAsPromisedError: it took too long.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise NotAsPromisedError(f"waited {seconds:.0f} seconds in vain for {what}")
        time.sleep(0.01)


@contextmanager
def background(*command: str, ready: str) -> Iterator[Background]:
    """Show a command and run it in the background, from the moment it has said ``ready``.

    When something inside fails, what the command said is shown.
    """
    print(f"$ {shlex.join(command)} &", flush=True)
    with tempfile.TemporaryDirectory(prefix="sandnet-demo-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        with output.open("wb") as out, errors.open("wb") as err:
            started = Background(shlex.join(command), subprocess.Popen(command, stdout=out, stderr=err), output, errors)
        try:
            until(lambda: ready in started.said() or started.process.poll() is not None, f"{ready!r}")
            if started.process.poll() is not None:
                raise NotAsPromisedError(f"it ended with exit code {started.process.returncode}")
            print(started.said().splitlines()[0], flush=True)
            yield started
        except NotAsPromisedError:
            told = [*started.said().splitlines()[-20:], *started.errors.read_text().splitlines()[-20:]]
            print(f"\n{shlex.join(command)} said:", *told, sep="\n", file=sys.stderr)
            raise
        finally:
            started.process.terminate()
            started.process.wait(timeout=DEADLINE)


def works(*command: str) -> bool:
    """Whether a command succeeds now."""
    return subprocess.run(command, capture_output=True, timeout=DEADLINE).returncode == 0


def snapshot() -> dict[str, str]:
    """Return what the host looks like: links, addresses, routes, rules, mounts, kernel parameters, processes."""
    commands = {
        "links": ["ip", "-o", "link"],
        "addresses": ["ip", "-o", "addr"],
        "routes": ["ip", "route", "show", "table", "all"],
        "nftables": ["nft", "list", "ruleset"],
        "mounts": ["cat", "/proc/self/mounts"],
    }
    seen = {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, command in commands.items()
    }
    return {**seen, "sysctls": "\n".join(kernel_parameters()), "processes": "\n".join(processes())}


def processes() -> Iterator[str]:
    """Return the processes in the network namespace of this one, without those that are ending."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/net") == os.readlink("/proc/self/ns/net"):
                yield f"{folder.name} {(folder / 'cmdline').read_text().replace(chr(0), ' ')}"
        except OSError:
            continue  # it has ended, or belongs to another user


def kernel_parameters() -> Iterator[str]:
    """Return the parameters of the network stack as a whole."""
    for folder in SYSCTLS:
        for file in sorted(Path("/proc/sys/net", folder).glob("*")):
            try:
                yield f"{file}={file.read_text().strip()}"
            except OSError:
                continue  # folders, and those that can only be written


def differences(before: dict[str, str], after: dict[str, str]) -> str:
    """Return what is in one snapshot and not in the other."""
    lines = []
    for name in before:
        old, new = before[name].splitlines(), after[name].splitlines()
        lines += [f"{name}: gone: {line}" for line in old if line not in new]
        lines += [f"{name}: left over: {line}" for line in new if line not in old]
    return "\n".join(lines)


def eventually_the_same(before: dict[str, str]) -> None:
    """Compare with the start; the kernel takes links away in the background.

    Raises:
        NotAsPromisedError: something is still different after a while.
    """
    deadline = time.monotonic() + DEADLINE
    while found := differences(before, snapshot()):
        if time.monotonic() > deadline:
            raise NotAsPromisedError(f"the host is not as it was:\n{found}")
        time.sleep(0.05)


def daemon(state: Path, *options: str) -> AbstractContextManager[Background]:
    """Start the daemon, on its embedded store, from the moment it serves."""
    return background("sandnet", "daemon", "--state-dir", str(state), *options, ready="sandnet: ready on")


def prepare() -> None:
    """Give the private host an empty /run and a resolver that says no at once, and find the commands of .venv."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "demo", "/run"], check=True)
    resolv_conf = Path("/etc/resolv.conf").resolve()  # on many machines it is a link into /run
    if resolv_conf.is_relative_to("/run"):
        resolv_conf.parent.mkdir(parents=True, exist_ok=True)
        resolv_conf.write_text(RESOLV_CONF)
    elif resolv_conf.exists():
        own = Path("/run/resolv.conf")
        own.write_text(RESOLV_CONF)
        subprocess.run(["mount", "--bind", own, resolv_conf], check=True)
    os.chdir(ROOT)
    os.environ["PATH"] = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"


def perform(script: str, scenario: Callable[[Path], None]) -> int:
    """Run a demonstration on a private host; 0 when everything was as promised.

    Args:
        script: its file, which is started again on the private host.
        scenario: all of it, from the daemon's start to ``sandnet down``; it gets a directory for the state.
    """
    if "SANDNET_PRIVATE_HOST" not in os.environ:
        return subprocess.run([PRIVATE_HOST, sys.executable, script]).returncode
    try:
        _show(scenario)
    except NotAsPromisedError as broken:
        print(f"\n{Path(script).name}: {broken}", file=sys.stderr)
        return 1
    return 0


def _show(scenario: Callable[[Path], None]) -> None:
    prepare()
    print('This runs in a network and mount namespace of its own: that is "the host" below.')
    before = snapshot()
    with tempfile.TemporaryDirectory(prefix="sandnet-demo-") as folder:
        state = Path(folder, "state")
        try:
            scenario(state)
        except BaseException:  # the resolver would stay, and with it all of this host
            subprocess.run(["sandnet", "down", "--state-dir", state], capture_output=True, timeout=DEADLINE)
            raise
    eventually_the_same(before)
    expect("links, addresses, routes, nftables, mounts, sysctls and processes are as they were", True)
