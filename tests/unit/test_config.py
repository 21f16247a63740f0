"""What is wrong with a configuration is reported with the file and the line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sandnet.config import Config, load
from sandnet.errors import Error

EXAMPLE = Path(__file__).parents[2] / "packaging" / "sandnet.toml"


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    """The example configuration with every setting in force."""
    file = tmp_path / "sandnet.toml"
    file.write_text(re.sub(r"^#(?=\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    return file


def test_example_configuration_as_it_is_changes_nothing() -> None:
    assert tomllib.loads(EXAMPLE.read_text()) == {}


def test_example_configuration_uncommented_equals_the_defaults(uncommented: Path) -> None:
    assert load(str(uncommented), {}) == Config()


def test_example_configuration_has_every_setting_in_order(uncommented: Path) -> None:
    assert tuple(tomllib.loads(uncommented.read_text())) == Config.__struct_fields__


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# comment\n\nlog_level = 'loud'\n", 3, "unknown log_level 'loud'"),
        ("state_dir = 'here'\n", 1, "state_dir must be an absolute path"),
        ("dns = true\ndns_outstanding = 'many'\n", 2, "Expected `int`, got `str`"),
        ("dns = true\n  pools = ['x']\n", 2, "pools"),
        ("dns = true\n\nstate_dri = '/x'\n", 3, "unknown field `state_dri`"),
        ("dns_host_listen = 'x'", 1, "no address and port"),
    ],
)
def test_invalid_file_error_names_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = tmp_path / "sandnet.toml"
    file.write_text(text)
    with pytest.raises(Error) as refused:
        load(str(file), {})
    assert refused.value.message.startswith(f"{file}, line {line}: ")
    assert words in refused.value.message


def test_unknown_config_key_error_names_the_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "sandnet.toml"
    file.write_text("state_dri = '/x'\n")
    with pytest.raises(Error) as refused:
        load(str(file), {})
    assert refused.value.hint == "did you mean state_dir?"


def test_file_that_is_not_toml_is_refused_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "sandnet.toml"
    file.write_text("dns = true\nnonsense\n")
    with pytest.raises(Error, match=f"{file}.*line 2"):
        load(str(file), {})


def test_invalid_option_error_blames_no_file(tmp_path: Path) -> None:
    file = tmp_path / "sandnet.toml"
    file.write_text("state_dir = '/x'\n")
    with pytest.raises(Error) as refused:
        load(str(file), {"state_dir": "here"})
    assert refused.value.message == "state_dir must be an absolute path"
