"""What ``sandnet doctor`` reports: what is wrong, why it matters, what was done, and what to do."""

from __future__ import annotations

from sandnet.cli.commands.doctor import drift_text
from sandnet.wire.reconcile import Drift

DOWN = Drift(kind="network", object="blue", problem="bridge snb0 is down", reason="no sandbox is reached", done="")
TAKEN = Drift(
    kind="sandbox", object="c1", problem="another namespace is pinned", reason="nothing can be run in it",
    done="not repaired: another namespace is pinned at /k; unmount it (umount /k)",
)  # fmt: skip


def done(drift: Drift, what: str) -> Drift:
    return Drift(kind=drift.kind, object=drift.object, problem=drift.problem, reason=drift.reason, done=what)


def test_no_drift_is_reported_as_such() -> None:
    assert drift_text([], fix=False) == "nothing differs: everything is as recorded"


def test_drift_is_reported_with_the_repair_command() -> None:
    assert drift_text([DOWN], fix=False) == (
        "KIND     OBJECT  PROBLEM\n"
        "network  blue    bridge snb0 is down\n"
        "  no sandbox is reached\n"
        "\n"
        "1 thing is not as recorded; to repair: sandnet doctor --fix"
    )


def test_repaired_drift_is_reported_as_repaired() -> None:
    assert drift_text([done(DOWN, "repaired")] * 2, fix=True).splitlines()[-3:] == [
        "  repaired",
        "",
        "all of it is repaired",
    ]


def test_unrepaired_drift_is_reported_with_reason_and_advice() -> None:
    reported = drift_text([done(DOWN, "repaired"), TAKEN, TAKEN], fix=True).splitlines()
    assert reported[-3] == "  not repaired: another namespace is pinned at /k; unmount it (umount /k)"
    assert reported[-1] == (
        "2 things are not as recorded still; see above why, and what to do. The daemon tries again by itself"
    )
