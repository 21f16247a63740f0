"""Where network plugins are found, and which are refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sandnet.drivers.base import PLUGIN_AWAY
from sandnet.drivers.remote.discovery import locate, names
from sandnet.errors import Error
from tests.support.privileges import needs_other_users

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root are made")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(tmp_path, stack)


class Places:
    """Two directories of plugins."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run, self.etc = folder / "run", folder / "etc"
        self._stack = stack
        for each in (self.run, self.etc):
            each.mkdir(mode=0o755)
        self.all = [str(self.run), str(self.etc), str(folder / "absent")]

    def socket(self, path: Path, mode: int = 0o660) -> Path:
        """A socket that is bound there."""
        path.parent.mkdir(exist_ok=True)
        made = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        made.bind(str(path))
        path.chmod(mode)
        return path

    def file(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o644)
        return path


def reason(name: str, places: Places) -> str:
    with pytest.raises(Error) as refused:
        locate(name, places.all)
    assert refused.value.code == PLUGIN_AWAY
    return refused.value.message


def test_sockets_and_files_are_found_in_order(places: Places) -> None:
    first = places.socket(places.run / "one.sock")
    places.file(places.etc / "one.spec", "tcp://192.0.2.1:99")
    second = places.socket(places.run / "two" / "two.sock")
    places.file(places.etc / "three.spec", "tcp://192.0.2.1:99\n")
    places.file(places.etc / "four.json", '{"Name": "four", "Addr": "http://[2001:db8::1]:80"}')
    places.file(places.etc / "five.spec", f"unix://{first}")
    assert locate("one", places.all).path == str(first)
    assert locate("two", places.all).path == str(second)
    assert str(locate("three", places.all)) == "192.0.2.1:99"
    assert (locate("four", places.all).host, locate("four", places.all).port) == ("2001:db8::1", 80)
    assert locate("five", places.all).path == str(first)
    assert names(places.all) == ["five", "four", "one", "three", "two"]


def test_plugin_that_starts_again_has_another_identity(places: Places) -> None:
    path = places.socket(places.run / "one.sock")
    before = locate("one", places.all)
    kept = path.rename(path.with_suffix(".old"))
    places.socket(path)
    assert locate("one", places.all) != before
    kept.unlink()


def test_names_that_no_plugin_has_are_not_looked_up(places: Places) -> None:
    places.socket(places.run / "sandnet.sock")
    places.socket(places.run / "odd name.sock")
    places.file(places.run / "readme.txt", "")
    (places.run / "empty").mkdir()
    assert names(places.all) == []
    for name in ("sandnet", "../run/one", "odd name", "", "absent", "a" * 65):
        assert "there is no network plugin" in reason(name, places)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://192.0.2.1", "is no address of a plugin"),
        ("unix://relative", "is no address of a plugin"),
        ("tcp://192.0.2.1:port", "contains no address"),
        ("", "is no address of a plugin"),
        ("x" * 70_000, "small file"),
    ],
)
def test_malformed_address_is_refused(places: Places, text: str, expected: str) -> None:
    places.file(places.etc / "one.spec", text)
    assert expected in reason("one", places)


@pytest.mark.parametrize("text", ["[]", "{", '{"Addr": 1}', '{"Name": "x"}'])
def test_malformed_json_is_refused(places: Places, text: str) -> None:
    places.file(places.etc / "one.json", text)
    assert "address" in reason("one", places)


@needs_other_users
def test_plugin_that_others_could_replace_is_refused(places: Places) -> None:
    path = places.socket(places.run / "one.sock", 0o666)
    assert "others than root may use it" in reason("one", places).replace("users other", "others")
    path.chmod(0o660)
    os.chown(path, 12345, 0)
    assert "belongs to another user" in reason("one", places)
    os.chown(path, 0, 12345)
    assert locate("one", places.all)
    places.run.chmod(0o777)
    assert "may write in" in reason("one", places)
    places.run.chmod(0o755)
    os.chown(places.run, 12345, 0)
    assert "belongs to another user" in reason("one", places)
    os.chown(places.run, 0, 0)
    spec = places.file(places.etc / "two.spec", "tcp://192.0.2.1:99")
    spec.chmod(0o666)
    assert "only root may write" in reason("two", places)


def test_links_and_plain_files_are_no_sockets(places: Places) -> None:
    target = places.socket(places.etc / "real.sock")
    (places.run / "one.sock").symlink_to(target)
    places.file(places.run / "two.sock", "")
    assert "it is no socket" in reason("one", places)
    assert "it is no socket" in reason("two", places)
