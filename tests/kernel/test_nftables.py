"""The firewall's scripts, run in a real kernel."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from sandnet.errors import Error, Kind
from sandnet.firewall import antispoofing_rules
from sandnet.firewall.ruleset.elements import BRIDGE, diff_statements
from sandnet.kernel.linux import nftables
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.types import ElementChange
from tests.support.network_host import Host
from tests.unit.test_balance import ENDPOINT, attachment
from tests.unit.test_port_guard import NET

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


SET = "table inet sandnet {\n set hosts { type ipv4_addr; }\n}\n"


def host_element(last: int, *, comes: bool = True) -> ElementChange:
    return ElementChange("inet sandnet", "hosts", f"10.0.0.{last}", bytes([10, 0, 0, last]), comes)


def told_hosts(host: Host, firewall: Nftables) -> frozenset[str]:
    listing = host.run(firewall.listing, "inet sandnet")
    assert listing
    return listing.elements["hosts"]


def test_given_only_changes_of_our_own_when_asked_then_nobody_touched_the_rules(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    host.run(firewall.acknowledge, host.run(firewall.foreign_generation))
    for last in range(1, 4):
        host.run(firewall.change, [host_element(last)])
        host.run(firewall.run, element(last))
    assert host.run(firewall.foreign_generation) == 0
    assert told_hosts(host, firewall) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_given_a_change_of_somebody_else_when_ours_follow_then_it_stays_noticed(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    host.run(firewall.acknowledge, host.run(firewall.foreign_generation))
    host.sh("nft", "add", "table", "inet", "theirs")
    host.run(firewall.change, [host_element(1)])
    host.run(firewall.change, [host_element(2)])
    assert host.run(firewall.foreign_generation)
    assert told_hosts(host, firewall) == {"10.0.0.1", "10.0.0.2"}


def test_given_a_refused_change_when_the_next_comes_then_it_has_its_own_answer(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    absent = [host_element(last, comes=False) for last in range(1, 4)]
    with pytest.raises(Error, match="No such file or directory"):
        host.run(firewall.change, [host_element(9), *absent, host_element(10)])
    host.run(firewall.change, [host_element(1)])
    assert told_hosts(host, firewall) == {"10.0.0.1"}


@pytest.mark.parametrize("holder", [True, False])
def test_given_what_a_port_may_send_when_told_without_the_library_then_it_is_what_the_library_would_tell(
    host: Host, firewall: Nftables, holder: bool
) -> None:
    """Told by one and taken back by the other."""
    port = replace(attachment(2), host_link="snv0123456789", holder=holder)
    own = antispoofing_rules.elements(NET, ENDPOINT, port)
    ports = f"add map {BRIDGE} ports {{ typeof iifname : meta mark; }}\n"
    host.run(firewall.run, f"add table {BRIDGE}\n{ports}{antispoofing_rules.ruleset([])}")
    host.run(firewall.change, antispoofing_rules.diff({}, own))
    told = host.run(firewall.listing, BRIDGE)
    assert told
    assert sum(map(len, told.elements.values())) == len(own)
    host.run(firewall.run, "\n".join(diff_statements(own, {})) + "\n")
    host.run(firewall.run, antispoofing_rules.ruleset([own]))
    assert host.run(firewall.listing, BRIDGE) == told
    host.run(firewall.change, antispoofing_rules.diff(own, {}))
    told = host.run(firewall.listing, BRIDGE)
    assert told
    assert not any(told.elements.values())


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


def test_given_1100_open_descriptors_when_a_context_is_opened_then_it_has_a_low_one_and_works(host: Host) -> None:
    """With a descriptor of 1,024 or more in select(2), glibc would abort the process."""
    program = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
from sandnet.kernel.linux.nftables import Nftables
kept = Nftables()
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
for _ in range(3):
    kept.run("add table inet t")
    probe = Nftables()
    probe.run("add table inet probe")
    probe.close()
    kept.close()
print(max(many), "works")
"""
    said, errors = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert said.endswith(" works\n"), errors
    assert int(said.split()[0]) > 1099


def test_given_no_low_descriptor_when_a_context_is_opened_then_it_is_an_error_and_no_abort(host: Host) -> None:
    program = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
from sandnet.errors import Error
from sandnet.kernel.linux.nftables import Nftables
try:
    Nftables().run("add table inet t")
except Error as error:
    print(error.kind, error.code)
for number in many[:10]:
    os.close(number)
Nftables().run("add table inet t")
print("works")
"""
    said, errors = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert said == "unavailable descriptors_exhausted\nworks\n", errors


def test_transaction_of_both_tables_fits_root_of_a_user_namespace(host: Host) -> None:
    """The usual send buffer is smaller, and only root of the machine may enlarge it beyond ``net.core.wmem_max``."""
    program = """
from sandnet.firewall import inet_table
from sandnet.firewall.balancing.service_rules import bridge_ruleset
from sandnet.firewall.balancing.hash_seeds import insert_seeds, new_secret
from sandnet.kernel.linux.nftables import Nftables
Nftables().run(insert_seeds(inet_table.table([], inet_table.HostState()) + bridge_ruleset(), new_secret()))
print("fits")
"""
    said, errors = host.popen("unshare", "-rn", sys.executable, "-c", program).communicate(timeout=20)
    assert said == "fits\n", errors


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
from sandnet.kernel.linux.nftables import Nftables
os.setuid(65534)
try:
    Nftables().run("add table inet t")
except Error as error:
    print(error.kind, error.message)
"""
    said, _ = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert said.startswith("unavailable")
    assert "Operation not permitted" in said
