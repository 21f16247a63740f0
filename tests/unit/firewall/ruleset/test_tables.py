"""Scripts about whole tables, as text."""

from __future__ import annotations

from sandnet.firewall.ruleset.tables import in_place, removals
from sandnet.kernel.types import TableStructure

SETS = "  set ours { type ifname; }\n  map where { type ifname : verdict; }\n"
CHAINS = """\
  chain accepted {
    accept
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname vmap @where
  }
"""
SCRIPT = in_place("inet t", SETS, CHAINS) + "add chain bridge t other\nadd set bridge t more { type ifname; }\n"


def test_table_in_place_is_declared_flushed_and_filled() -> None:
    first, flushed, second = SCRIPT.partition("flush chain inet t accepted\nflush chain inet t forward\n")
    assert "iifname vmap" not in first
    assert "hook forward" in first
    assert flushed
    assert second.startswith("flush map inet t where\nflush set inet t ours\ntable inet t {\n")
    assert "iifname vmap @where" in second


def test_removals_are_empty_for_a_table_as_declared() -> None:
    inet = TableStructure("", frozenset({"accepted", "forward"}), frozenset({"ours"}), frozenset({"where"}))
    assert removals("inet t", inet, SCRIPT) == ""
    assert removals("bridge t", TableStructure("", frozenset({"other"}), frozenset({"more"})), SCRIPT) == ""


def test_removals_empty_chains_before_they_delete_them() -> None:
    found = TableStructure("", frozenset({"accepted", "b", "a"}), frozenset({"other"}), frozenset({"m"}))
    assert removals("inet t", found, SCRIPT).splitlines() == [
        "flush chain inet t a",
        "flush chain inet t b",
        "delete chain inet t a",
        "delete chain inet t b",
        "delete map inet t m",
        "delete set inet t other",
    ]


def test_maps_to_replace_are_deleted_after_the_rules() -> None:
    script = in_place("inet t", SETS, CHAINS, "  map again { type ifname : verdict; }\n")
    first, _, second = script.partition("delete map inet t again\n")
    assert "map again" in first  # so that there is one to delete
    assert "flush chain inet t forward" in first
    assert "flush map inet t again" not in script
    assert second.startswith("table inet t {\n  map again { type ifname : verdict; }\n}\n")
    assert removals("inet t", TableStructure("", maps=frozenset({"again"})), script) == ""
