"""The daemon without what looks after it: nobody watches processes, backends or what others change.

``python -m bench.unwatched daemon ...`` takes the words of ``sandnet``, and is measured beside the whole one.
"""

from __future__ import annotations

from unittest.mock import patch

from sandnet.cli import main
from sandnet.core.monitoring.health_checks import Probes
from sandnet.core.monitoring.process_watcher import Deaths
from sandnet.core.reconcile.drift_watcher import Healing

if __name__ == "__main__":
    with patch.object(Deaths, "start"), patch.object(Healing, "start"), patch.object(Probes, "start"):
        main()
