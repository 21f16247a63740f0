"""The benchmarks' arithmetic and their report."""

from __future__ import annotations

import json
from pathlib import Path

import dns.message
import pytest

from bench import __main__ as program
from bench import echo, names, programmed, report, restart, services
from bench.figures import (
    Figure,
    Section,
    Target,
    growth_of,
    noise_of,
    parity_of,
    percentile,
    ratio_of,
    time_of,
)

MACHINE = {"kernel": "6.1", "processor": "two cores"}
DNSPERF = """\
[Status] Sending queries (to 127.0.0.11:53)
> NOERROR name00 A 0.000238
> NOERROR name01 A 0.001500
[Status] Testing complete (time limit)

Statistics:

  Queries sent:         2
  Queries completed:    2 (100.00%)
  Queries lost:         0 (0.00%)

  Response codes:       NOERROR 2 (100.00%)
  Average packet size:  request 24, response 40
  Run time (s):         1.000405
  Queries per second:   131097.905348

  Average Latency (s):  0.000869 (min 0.000238, max 0.001500)
"""
"""As dnsperf 2.10 has it."""


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)], ids=lambda value: f"{value}"
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile(range(100, 0, -1), percent) == expected


def test_percentile_of_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target(3), 3.0, "met"),
        (Target(3), 3.01, "not met"),
        (Target(1, "at least"), 1.0, "met"),
        (Target(1, "at least"), 0.99, "not met"),
        (None, 7.0, ""),
    ],
)
def test_figure_equal_to_its_target_meets_it(target: Target | None, value: float, verdict: str) -> None:
    assert Figure("what", value, "ms", target=target).verdict == verdict


def test_times_in_seconds_are_reported_in_ms_with_the_tail() -> None:
    figure = time_of("join", [0.002, 0.001, 0.050])
    assert (figure.value, figure.unit, figure.detail) == (2.0, "ms", "p99 50.00, n 3")


def test_ratio_of_two_series_divides_their_medians() -> None:
    assert ratio_of("join / floor", [4, 6, 90], [2, 2, 0.1]).value == 3


def test_growth_compares_the_ends_of_a_series_and_not_its_middle() -> None:
    figure = growth_of("growth", [1.0] * 3 + [50.0] * 10 + [1.5] * 3, 3, Target(1.2))
    assert (figure.value, figure.verdict) == (1.5, "not met")


def test_single_outlier_run_does_not_decide_the_noise() -> None:
    assert noise_of([10, 11, 10, 9, 1]) == pytest.approx(0.1)


def test_rates_near_the_floor_are_level() -> None:
    figure = parity_of("rate", [9.8, 9.5, 10.4], [10, 9, 11])
    assert figure.value == pytest.approx(0.98)
    assert figure.verdict == "met"


def test_rates_far_below_the_floor_are_not_level() -> None:
    assert parity_of("rate", [8, 8, 8], [10, 10.1, 10]).verdict == "not met"


def test_report_page_has_every_cell_and_every_note() -> None:
    section = Section("Part", (Figure("join", 1000.4, "ms", "n 3", Target(1000)),), ("A note.",))
    page = report.markdown([section], MACHINE)
    assert "| join | 1000 ms | n 3 | ≤ 1000 ms | not met |" in page
    assert "| kernel | 6.1 |" in page
    assert "A note." in page


def test_report_page_notes_a_skipped_part_without_a_table() -> None:
    page = report.markdown([Section("Peer", (), ("Skipped: not installed.",))], MACHINE)
    assert page.rstrip().endswith("## Peer\n\nSkipped: not installed.")


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12 ms"), (12.34, "12.3 ms"), (123.4, "123 ms")])
def test_figure_is_shown_with_its_significant_digits(value: float, text: str) -> None:
    assert report.value_text(Figure("x", value, "ms")) == text


def test_printed_columns_are_aligned() -> None:
    lines = report.terminal(
        Section("Part", (Figure("a", 1, "ms", "x"), Figure("long name", 2, "ms", "x")))
    ).splitlines()
    assert lines[2].index("1.00 ms") == lines[3].index("2.00 ms")


def test_json_report_includes_the_verdicts() -> None:
    reported = json.loads(report.as_json([Section("Part", (Figure("join", 2, "ms", "", Target(3)),))], MACHINE))
    assert reported["machine"] == MACHINE
    assert reported["sections"][0]["figures"][0]["verdict"] == "met"


def test_package_list_named_in_the_report_exists() -> None:
    named = "scripts/debian-packages-bench.txt"
    assert named in report.INTRODUCTION
    assert (Path(program.REPOSITORY) / named).is_file()


def test_dnsperf_output_yields_the_rate_and_every_latency() -> None:
    assert names.rate_in(DNSPERF) == pytest.approx(131097.9, abs=0.1)
    assert names.latencies_in(DNSPERF) == [0.000238, 0.0015]


@pytest.mark.parametrize(
    ("printed", "instead"),
    [
        ("lost:         0", "lost:         1"),
        ("NOERROR 2 (100.00%)", "NXDOMAIN 2 (100.00%)"),
        ("NOERROR 2 (100.00%)", "NOERROR 1 (50.00%), SERVFAIL 1 (50.00%)"),
        ("response 40", "response 24"),
        ("Queries per second", "Interrupted"),
    ],
    ids=["lost", "unknown", "failed", "empty", "ended"],
)
def test_dnsperf_output_with_unanswered_queries_has_no_rate(printed: str, instead: str) -> None:
    with pytest.raises(RuntimeError, match="not all questions"):
        names.rate_in(DNSPERF.replace(printed, instead))


def test_echo_answers_a_query_with_an_address() -> None:
    query = dns.message.make_query("name00", "A")
    reply = dns.message.from_wire(echo.answer(query.to_wire()))
    assert query.is_response(reply)
    assert [str(record) for answer in reply.answer for record in answer] == ["127.0.0.1"]


def test_ratio_of_alternating_rates_compares_neighbours() -> None:
    *_, ratio = services.beside("rate", "a second", [10.0, 20.0, 40.0], [9.0, 19.0, 20.0], 0.95)
    assert ratio.value == pytest.approx(0.9)
    assert ratio.verdict == "not met"


def test_only_packets_that_never_arrived_count_as_lost() -> None:
    sent = {
        "udp a": {"packets": 10},
        "udp b": {"packets": 5},
        "tcp a": {"bytes": 900, "again": 7, "needless": 6},
        "names": {"packets": 4, "unanswered": 1, "pause": 0.5},
    }
    came = {"udp a": {"packets": 8, "pause": 9.0}, "udp b": {"packets": 5, "pause": 0.1},
            "tcp a": {"packets": 0, "bytes": 900, "pause": 0.2}}  # fmt: skip
    assert restart.seen(2.5, sent, came) == restart.Seen(
        took=2.5, packets=15, lost=2, again=7, missed=1, pause=0.2, questions=4, unanswered=1, slowest=0.5
    )


def test_flow_that_never_arrived_yields_no_figure() -> None:
    names_ = {"packets": 1, "unanswered": 0, "pause": 0.1}
    with pytest.raises(RuntimeError, match="udp a"):
        restart.seen(None, {"udp a": {"packets": 10}, "names": names_}, {})


def test_generated_services_have_unique_addresses_and_ports() -> None:
    network = programmed.single_network()
    states = [programmed.service(network, number) for number in range(1000)]
    backends = [backend for state in states for backend in state.backends]
    assert len({backend.address for backend in backends}) == len({backend.mac for backend in backends}) == 3000
    assert len({port.host_port for state in states for port in state.endpoint.ports}) == 1000
    assert all(state.endpoint.address == state.backends[0].address for state in states)
