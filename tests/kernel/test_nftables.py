"""The firewall's scripts, run in a real kernel."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel import nftables
from sandnet.kernel.nftables import Nftables
from tests.lab import Host

TABLE = """
table inet sandnet {
  map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
}
"""


@pytest.fixture
def firewall(host: Host) -> Iterator[Nftables]:
    made = Nftables()
    host.run(made.run, TABLE)
    yield made
    made.close()


def element(port: int, proto: int = 6) -> str:
    return f"add element inet sandnet ports {{ {proto} . {port} : 10.0.0.2 . 80 }}\n"


def elements(host: Host) -> int:
    return host.sh("nft", "list", "map", "inet", "sandnet", "ports").count("10.0.0.2 . 80")


def test_given_a_table_when_elements_are_added_then_the_kernel_has_them(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, element(80) + element(443))
    assert elements(host) == 2


def test_given_a_script_whose_last_line_fails_when_run_then_nothing_of_it_happens(
    host: Host, firewall: Nftables
) -> None:
    with pytest.raises(Error) as refusal:
        host.run(firewall.run, element(80) + "delete element inet sandnet ports { 17 . 9 : 10.0.0.2 . 80 }\n")
    assert elements(host) == 0
    assert "No such file or directory" in refusal.value.message


def test_given_a_script_with_a_mistake_when_run_then_it_is_our_fault(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error) as refusal:
        host.run(firewall.run, element(80) + "add nonsense\n")
    assert refusal.value.kind is Kind.INTERNAL
    assert "syntax error" in refusal.value.message
    assert elements(host) == 0


def test_given_a_failure_before_when_the_next_script_runs_then_it_has_its_own_answer(
    host: Host, firewall: Nftables
) -> None:
    with pytest.raises(Error):
        host.run(firewall.run, "add nonsense\n")
    host.run(firewall.run, element(80))
    with pytest.raises(Error, match="No such file or directory"):
        host.run(firewall.run, "delete table inet absent\n")
    assert elements(host) == 1


def test_given_a_script_with_a_nul_when_run_then_not_even_its_beginning_happens(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error, match="NUL"):
        host.run(firewall.run, element(80) + "\0" + element(81))
    assert elements(host) == 0


def test_given_somebody_else_changed_the_table_when_run_then_it_is_seen(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, element(80))
    host.sh("nft", "delete", "table", "inet", "sandnet")
    with pytest.raises(Error):
        host.run(firewall.run, element(81))
    host.run(firewall.run, TABLE + element(81))
    assert elements(host) == 1


def test_given_four_threads_when_they_run_scripts_at_once_then_none_is_lost(host: Host, firewall: Nftables) -> None:
    start = threading.Barrier(4)

    def add(worker: int) -> None:
        start.wait()
        for port in range(100):
            firewall.run(element(worker * 100 + port + 1))

    with ThreadPoolExecutor(4, initializer=host.enter) as threads:
        list(threads.map(add, range(4)))
    assert elements(host) == 400


def test_given_ten_thousand_elements_when_run_as_one_script_then_all_are_there(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, "".join(element(port) for port in range(1, 10001)))
    assert elements(host) == 10000


def test_given_a_closed_firewall_when_used_again_then_it_works(host: Host, firewall: Nftables) -> None:
    firewall.close()
    firewall.close()
    host.run(firewall.run, element(80))
    assert elements(host) == 1


def test_given_no_library_when_run_then_unavailable_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "_LIBRARY", "libabsent.so.1")
    nftables._library.cache_clear()
    made = Nftables()
    try:
        with pytest.raises(Error) as refusal:
            made.run("")
    finally:
        nftables._library.cache_clear()
        made.close()
    assert refusal.value.kind is Kind.UNAVAILABLE
    assert "libnftables1" in refusal.value.hint


def test_given_no_privilege_when_run_then_unavailable(host: Host) -> None:
    program = """
import os
from sandnet.errors import Error
from sandnet.kernel.nftables import Nftables
os.setuid(65534)
try:
    Nftables().run("add table inet t")
except Error as error:
    print(error.kind, error.message)
"""
    said, _ = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert said.startswith("unavailable")
    assert "Operation not permitted" in said
