"""A host without libnftables."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.daemon import SANDNET, World


@pytest.mark.parametrize("words", [("daemon",)], ids=lambda words: words[0])
def test_given_no_libnftables_when_a_command_needs_the_daemon_then_it_says_what_to_install(
    fresh_world: World, words: tuple[str, ...]
) -> None:
    world = fresh_world
    (world.folder / "libnftables.so.1").touch()  # the loader finds no library in it
    environment = {"LD_LIBRARY_PATH": str(world.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [str(SANDNET), *words]
    ended = world.host.run(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    )
    assert ended.returncode != 0
    assert "libnftables.so.1" in ended.stderr
    assert "apt-get install libnftables1" in ended.stderr
