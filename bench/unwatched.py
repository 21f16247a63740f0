"""The daemon without what looks after it: nothing watches processes, backends or what other programs change.

``python -m bench.unwatched daemon ...`` takes the words of ``sandnet``, and is measured beside the whole one.
"""

from __future__ import annotations

from unittest.mock import patch

from sandnet.cli import main
from sandnet.core.monitoring.health_checks import HealthChecks
from sandnet.core.monitoring.process_watcher import ProcessWatcher
from sandnet.core.reconcile.drift_watcher import DriftWatcher

if __name__ == "__main__":
    with (
        patch.object(ProcessWatcher, "start"),
        patch.object(DriftWatcher, "start"),
        patch.object(HealthChecks, "start"),
    ):
        main()
