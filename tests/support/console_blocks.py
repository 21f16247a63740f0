"""Extract the console blocks of a document, run them in one shell, and compare what they print with what is shown.

A console block is fenced with three back-quotes and the word ``console``. In it ``# `` begins a command of root, ``$ ``
one of anybody; the lines up to the next command are its output, where ``…`` stands for any text of its line, and a
line of ``…`` alone for any lines. An HTML comment before a block is a directive:

``<!-- console: not run: REASON -->``
    the next block is not run.
``<!-- console: given: COMMAND -->``
    the command runs at this place; what it prints is not compared. A sentence of the page must say the same.
``<!-- console: run -->``
    the next block, of ``sh``, runs as well; what it prints is not compared.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.network_host import Host

PART = re.compile(
    r"^<!-- console: (not run|given): ([^\n]*?) -->$|^```console\n(.*?)^```$|^<!-- console: run -->\n```sh\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MASKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b|\b[0-9a-f]{6,63}…", "<id>"),
        (r"\b(sn[bv])[0-9a-f]{10}\b", r"\1<id>"),
        (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "<mac>"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(Z|\+00:00)?", "<time>"),
        (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "<time>"),
        (r"\b\d{8}T\d{6}Z\b", "<time>"),
        (r"@if\d+", "@if<number>"),
        (r"\b(repaired|waits) \d+ (times|s)\b", r"\1 <number> \2"),
        (r'"sequence":\d+', '"sequence":<number>'),
        (r"\b0x[0-9a-f]+\b", "<mark>"),
        (r"\b(pid|process|processes) \d+(, \d+)*", r"\1 <number>"),
        (r"[ \t]+", " "),
        (r',\n (?=["{[])', ","),
        (r"[ \r]+(?=\n)", ""),
    )
]
"""What differs from run to run, or is only a matter of how a line is laid out."""


class Command(NamedTuple):
    """A command, and the output that its page shows.

    ``output`` is None where a directive gives the command.
    """

    text: str
    output: str | None


class Block(NamedTuple):
    """A console block of a page; ``reason`` reports why it is not run."""

    commands: tuple[Command, ...]
    reason: str = ""


def blocks(page: str) -> Iterator[Block]:
    """Yield the console blocks of a page, and the commands that its directives give, in order."""
    reason = ""
    for part in PART.finditer(page):
        if part[1] == "not run":
            reason = part[2]
        elif part[1] == "given":
            yield Block((Command(part[2], None),))
        elif part[4]:
            yield Block((Command(part[4], None),))
        else:
            yield Block(() if reason else tuple(commands(part[3])), reason)
            reason = ""


def commands(block: str) -> Iterator[Command]:
    """Yield the commands of a block, each with its output."""
    lines = block.splitlines()
    assert lines[0][:2] in {"# ", "$ "}, f"a console block begins with a command: {lines[0]}"
    while lines:
        text = lines.pop(0)[2:]
        while not is_complete(text):
            text += "\n" + lines.pop(0)
        output = ""
        while lines and lines[0][:2] not in {"# ", "$ "}:
            output += lines.pop(0) + "\n"
        yield Command(text, output)


def is_complete(text: str) -> bool:
    """Return whether a command ends with this line."""
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return not text.endswith("\\")


def masked(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    return text


def fits(shown: str, printed: str) -> bool:
    """Return whether what was printed is what a page shows."""
    lines = masked(shown).splitlines()
    patterns = [r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", ".*") + "\n" for line in lines]
    text = masked(printed + "\n").rstrip("\n")
    return re.fullmatch("".join(patterns), text and text + "\n") is not None


def mistakes(host: Host, script: list[Command], folder: Path, path: str, seconds: float = 300.0) -> list[str]:
    """Run commands in one shell on a host, all sent to it at once, and return what differs from the pages.

    They can write below ``folder``, ``/run`` and ``/var/lib`` only, and see no other processes than their own: a page
    must not change the machine of its test. All processes end with the shell.
    What a command in the background prints comes at any time, and is not compared.
    """
    printed = _run(host, script, folder, path, seconds)
    if len(printed) < len(script):
        return [
            f"{script[len(printed)].text}\nnever ended, or read what was meant for the shell; before it:\n{printed}"
        ]
    return [
        f"{command.text}\n--- shown\n{command.output}--- printed\n{output}"
        for command, output in zip(script, printed, strict=True)
        if command.output is not None and not fits(command.output, output)
    ]


def _run(host: Host, script: list[Command], folder: Path, path: str, seconds: float) -> list[str]:
    """Return what each command printed; fewer than there are when one does not end."""
    mark = "--- the command has ended ---"
    lines = [
        f"{{ {command.text}\n}} > /dev/null 2>&1\n" if command.text.rstrip().endswith("&") else f"{command.text}\n"
        for command in script
    ]
    (folder / "script").write_text("".join(f"{line}printf '\\n{mark}\\n'\n" for line in lines))
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "HOME": str(folder), "TMPDIR": str(folder)}
    host.sh("mount", "--bind", str(folder), str(folder))
    host.sh("mount", "-o", "remount,bind,ro", "/")
    with (folder / "script").open() as source, (folder / "printed").open("w") as target:
        shell = host.run(
            lambda: subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "--noprofile", "--norc"],
                stdin=source,
                stdout=target,
                stderr=target,
                cwd=folder / "directory",
                env=environment,
                start_new_session=True,
            )
        )
        with suppress(subprocess.TimeoutExpired):
            shell.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    *ended, _ = (folder / "printed").read_text().split(f"\n{mark}\n")
    return ended
