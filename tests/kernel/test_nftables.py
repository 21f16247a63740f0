"""The firewall's scripts, run in a real kernel."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux import nftables
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.types import Elements, ElementSet
from tests.support.network_host import Host
from tests.support.privileges import needs_other_users

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


def test_added_elements_are_in_the_kernel(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, element(80) + element(443))
    assert elements(host) == 2


def test_script_failing_on_its_last_line_changes_nothing(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error) as refusal:
        host.run(firewall.run, element(80) + "delete element inet sandnet ports { 17 . 9 : 10.0.0.2 . 80 }\n")
    assert elements(host) == 0
    assert "No such file or directory" in refusal.value.message


def test_script_with_a_syntax_error_is_an_internal_error(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error) as refusal:
        host.run(firewall.run, element(80) + "add nonsense\n")
    assert refusal.value.kind is Kind.INTERNAL
    assert "syntax error" in refusal.value.message
    assert elements(host) == 0


def test_error_of_one_script_does_not_leak_into_the_next(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error):
        host.run(firewall.run, "add nonsense\n")
    host.run(firewall.run, element(80))
    with pytest.raises(Error, match="No such file or directory"):
        host.run(firewall.run, "delete table inet absent\n")
    assert elements(host) == 1


def test_script_with_a_nul_byte_changes_nothing(host: Host, firewall: Nftables) -> None:
    with pytest.raises(Error, match="NUL"):
        host.run(firewall.run, element(80) + "\0" + element(81))
    assert elements(host) == 0


def test_table_deleted_by_another_program_fails_the_next_script(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, element(80))
    host.sh("nft", "delete", "table", "inet", "sandnet")
    with pytest.raises(Error):
        host.run(firewall.run, element(81))
    host.run(firewall.run, TABLE + element(81))
    assert elements(host) == 1


SET = "table inet sandnet {\n set hosts { type ipv4_addr; }\n}\n"


def addresses(*last: int) -> Elements:
    return {ElementSet("inet sandnet", "hosts"): {bytes([10, 0, 0, each]): b"" for each in last}}


def reported_hosts(host: Host, firewall: Nftables) -> set[int]:
    listing = host.run(firewall.listing, "inet sandnet")
    assert listing
    return {key[-1] for key in listing.elements["hosts"]}


def test_own_changes_are_not_reported_as_foreign(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    host.run(firewall.acknowledge, host.run(firewall.foreign_generation))
    for last in range(1, 4):
        host.run(firewall.change, {}, addresses(last))
        host.run(firewall.run, element(last))
    assert host.run(firewall.foreign_generation) == 0
    assert reported_hosts(host, firewall) == {1, 2, 3}


def test_foreign_change_stays_detected_after_our_own(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    host.run(firewall.acknowledge, host.run(firewall.foreign_generation))
    host.sh("nft", "add", "table", "inet", "theirs")
    host.run(firewall.change, {}, addresses(1))
    host.run(firewall.change, {}, addresses(2))
    assert host.run(firewall.foreign_generation)
    assert reported_hosts(host, firewall) == {1, 2}


def test_error_of_one_change_does_not_leak_into_the_next(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, SET)
    with pytest.raises(Error, match="No such file or directory"):
        host.run(firewall.change, addresses(1, 2, 3), addresses(9, 10))
    host.run(firewall.change, {}, addresses(1))
    assert reported_hosts(host, firewall) == {1}


def test_concurrent_scripts_of_four_threads_all_apply(host: Host, firewall: Nftables) -> None:
    start = threading.Barrier(4)

    def add(worker: int) -> None:
        start.wait()
        for port in range(100):
            firewall.run(element(worker * 100 + port + 1))

    with ThreadPoolExecutor(4, initializer=host.enter) as threads:
        list(threads.map(add, range(4)))
    assert elements(host) == 400


def test_ten_thousand_elements_apply_in_one_script(host: Host, firewall: Nftables) -> None:
    host.run(firewall.run, "".join(element(port) for port in range(1, 10001)))
    assert elements(host) == 10000


def test_closed_firewall_reopens_on_use(host: Host, firewall: Nftables) -> None:
    firewall.close()
    firewall.close()
    host.run(firewall.run, element(80))
    assert elements(host) == 1


def test_context_gets_a_low_descriptor_with_1100_open(host: Host) -> None:
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
    printed, errors = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert printed.endswith(" works\n"), errors
    assert int(printed.split()[0]) > 1099


def test_context_without_a_low_descriptor_raises_and_no_abort(host: Host) -> None:
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
    printed, errors = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert printed == "unavailable descriptors_exhausted\nworks\n", errors


def test_both_tables_fit_the_socket_of_user_namespace_root(host: Host) -> None:
    """The usual send buffer is smaller, and only root of the machine may enlarge it beyond ``net.core.wmem_max``."""
    program = """
from sandnet.firewall import inet_table
from sandnet.firewall.balancing.service_rules import bridge_ruleset
from sandnet.firewall.balancing.hash_seeds import insert_seeds, new_secret
from sandnet.kernel.linux.nftables import Nftables
Nftables().run(insert_seeds(inet_table.table([], inet_table.HostState()) + bridge_ruleset(), new_secret()))
print("fits")
"""
    printed, errors = host.popen("unshare", "-rn", sys.executable, "-c", program).communicate(timeout=20)
    assert printed == "fits\n", errors


def test_missing_library_is_unavailable_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "NFTABLES_LIBRARY", "libabsent.so.1")
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


@needs_other_users
def test_run_without_privilege_is_unavailable(host: Host) -> None:
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
    printed, _ = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert printed.startswith("unavailable")
    assert "Operation not permitted" in printed
