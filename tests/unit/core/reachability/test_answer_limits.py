"""How many probes of one host are answered."""

from __future__ import annotations

from sandnet.core.reachability.answer_limits import BURST, RATE, AnswerLimits


def test_a_burst_is_answered_and_then_the_rate() -> None:
    now = [1000.0]
    limits = AnswerLimits(lambda: now[0])
    assert sum(limits.allow("h1") for _ in range(10 * int(BURST))) == BURST
    now[0] += 1
    assert sum(limits.allow("h1") for _ in range(10 * int(BURST))) == RATE
    now[0] += 1000
    assert sum(limits.allow("h1") for _ in range(10 * int(BURST))) == BURST


def test_hosts_do_not_use_up_each_others_answers() -> None:
    limits = AnswerLimits(lambda: 1000.0)
    while limits.allow("h1"):
        pass
    assert limits.allow("h2")


def test_removed_host_is_forgotten() -> None:
    limits = AnswerLimits(lambda: 1000.0)
    for host in ("h1", "h2"):
        while limits.allow(host):
            pass
    limits.keep({"h2"})
    assert limits.allow("h1"), "it is a new host"
    assert not limits.allow("h2")
