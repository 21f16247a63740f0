"""Programs in sandboxes, started by the command ``sandnet sandbox exec``.

So they have the same view of the network and of its files as those of the command line, and the calling process changes
none of its own namespaces.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_PROGRAM: Final = "from sandnet.cli import main; main()"


class Runner(NamedTuple):
    """Starts programs in the sandbox of one container."""

    url: str
    tls: tuple[str, str, str] | None
    container: str

    def words(self, command: Sequence[str]) -> list[str]:
        """Return the words of the command that becomes the program."""
        if isinstance(command, str) or not command:
            raise ValueError(f"a command is a sequence of words, and not {command!r}")
        options = ["-H", self.url]
        for name, path in zip(("ca", "cert", "key"), self.tls or (), strict=False):
            options += [f"--tls-{name}", path]
        # -I: modules in the caller's directory must not replace ours
        return [sys.executable, "-I", "-c", _PROGRAM, *options, "sandbox", "exec", self.container, "--", *command]

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, and return its status and output; see :meth:`Sandbox.run`."""
        return subprocess.run(
            self.words(command),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
            env=env,
            cwd=cwd,
        )

    def start(
        self,
        command: Sequence[str],
        *,
        capture: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program and return its process; see :meth:`Sandbox.start`."""
        pipe = subprocess.PIPE if capture else None
        return subprocess.Popen(
            self.words(command), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=env, cwd=cwd
        )
