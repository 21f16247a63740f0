"""What is handed to others: the wheel, and the systemd units."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from sandnet.cli.root import root

REPOSITORY = Path(__file__).parents[2]
UNITS = ("sandnet.service", "sandnet.socket", "sandnet-plugin.socket")

pytestmark = pytest.mark.timeout(240)


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is written beside the source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(REPOSITORY / name, source)
    run(sys.executable, REPOSITORY / "scripts" / "man-pages", source / "build" / "man")
    shutil.copytree(REPOSITORY / "packaging", source / "packaging")
    shutil.copytree(REPOSITORY / "native", source / "native")
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source)
    (built,) = (source / "dist").glob("sandnet-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel in it.

    Its dependencies are borrowed from the environment of the tests, so that no network is needed.
    """
    place = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", place)
    run(place / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = (place / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_installed_wheel_provides_the_command(installed: Path) -> None:
    where = run(installed / "python", "-c", "import sandnet; print(sandnet.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert declared in run(installed / "sandnet", "version")


def test_installed_wheel_provides_the_example_configuration(installed: Path) -> None:
    example = installed.parent / "share" / "doc" / "sandnet" / "sandnet.toml"
    assert example.read_bytes() == (REPOSITORY / "packaging" / "sandnet.toml").read_bytes()


def commands(command: click.Command, name: str) -> Iterator[str]:
    """Yield the names of the pages of a command and those below it."""
    yield name
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for each in command.list_commands(ctx):
            below = command.get_command(ctx, each)
            if below is not None and not below.hidden:
                yield from commands(below, f"{name}-{each}")


def test_installed_wheel_provides_a_man_page_for_each_command(installed: Path) -> None:
    pages = {page.stem: page.read_text() for page in (installed.parent / "share" / "man" / "man1").glob("*.1")}
    assert pages.keys() == set(commands(root, "sandnet"))
    assert "\b" not in "".join(pages.values())
    assert "network" in pages["sandnet"]
    assert "--fix" in pages["sandnet-doctor"].replace("\\", "")


def test_wheel_has_the_native_cni_plugin_where_a_compiler_is(wheel: Path, installed: Path) -> None:
    plugin = installed / "sandnet-cni"
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    assert wheel.stem.endswith(f"py3-none-{sysconfig.get_platform().replace('-', '_')}")
    assert plugin.read_bytes().startswith(b"\x7fELF")
    assert "supportedVersions" in run(plugin, env={"CNI_COMMAND": "VERSION"})


def test_wheel_without_a_compiler_has_the_plugin_in_python(wheel: Path, tmp_path: Path) -> None:
    """It is built from the source of the other wheel, and runs on any machine."""
    source = wheel.parents[1]
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    run(*build, env={"PATH": "/nonexistent", "HOME": str(tmp_path)})
    (built,) = tmp_path.glob("sandnet-*.whl")
    assert built.stem.endswith("py3-none-any")
    (script,) = (name for name in zipfile.ZipFile(built).namelist() if name.endswith("/scripts/sandnet-cni"))
    text = zipfile.ZipFile(built).read(script)
    assert text.startswith(b"#!python")  # pip writes the interpreter's path there
    program = tmp_path / "sandnet-cni"
    program.write_bytes(text)
    assert "supportedVersions" in run(sys.executable, program, env={"CNI_COMMAND": "VERSION"})


def test_wheel_holds_only_the_program_and_its_license(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(file.relative_to(REPOSITORY / "src")) for file in (REPOSITORY / "src" / "sandnet").rglob("*.py")}
    assert expected <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sandnet"}


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_units(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for name in UNITS:
        shutil.copy(REPOSITORY / "systemd" / name, tmp_path)
    printed = run(analyze, "verify", "--man=no", "--recursive-errors=no", tmp_path / unit)
    assert "sandnet" not in printed


def test_socket_unit_sets_owner_root_and_the_group() -> None:
    printed = (REPOSITORY / "systemd" / "sandnet.socket").read_text().splitlines()
    for setting in ("SocketMode=0660", "SocketUser=root", "SocketGroup=sandnet", "DirectoryMode=0755"):
        assert setting in printed
    assert "g sandnet - -" in (REPOSITORY / "systemd" / "sandnet.sysusers").read_text()
